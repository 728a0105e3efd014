"""Memory of batches comes back when nothing refers to it, and not before."""

import threading

import numpy as np
import torch

from sam3ft_trainer.data.memory import BatchMemory


def test_a_block_is_handed_out_again_once_its_tensor_is_gone() -> None:
    memory = BatchMemory()
    first = memory.take(2, 8, 8, 3)
    place = first.data_ptr()
    del first

    again = memory.take(2, 8, 8, 3)

    assert (2, 8, 8, 3) == again.shape
    assert torch.uint8 == again.dtype
    assert place == again.data_ptr()


def test_a_block_is_kept_by_a_view_and_by_an_array_of_its_tensor() -> None:
    memory = BatchMemory()
    view = memory.take(16)[3:5]
    array = memory.take(16).permute(0).numpy()[2:]
    view.fill_(7)
    array.fill(9)

    others = [memory.take(16).fill_(1) for _ in range(3)]

    assert [7, 7] == view.tolist()
    assert np.all(array == 9)
    assert 3 == len({other.data_ptr() for other in others})


def test_a_block_serves_a_smaller_shape_and_is_replaced_for_a_larger_one() -> None:
    memory = BatchMemory()
    place = memory.take(100).data_ptr()
    small = memory.take(10)
    assert place == small.data_ptr()
    del small

    large = memory.take(1000)
    large.fill_(3)

    assert 3000 == int(large.sum())


def test_threads_never_share_a_block() -> None:
    memory = BatchMemory()
    wrong: list[int] = []

    def work(value: int) -> None:
        for _ in range(300):
            block = memory.take(512).fill_(value)
            if not bool((block == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == wrong
    assert len(memory._free) <= 16  # a thread takes the next block before it lets go of the last


def test_a_block_outlives_the_memory_object() -> None:
    memory = BatchMemory()
    block = memory.take(32).fill_(5)
    del memory

    assert 160 == int(block.sum())
