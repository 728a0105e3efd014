"""What exit codes, last words and logs of workers amount to."""

from typing import Any

import pytest

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.worker import WorkerResult
from sam3ft_trainer.run.launcher.ends import WorkerEnd, judge, last_traceback

TRACE = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\nKeyError: 3'


def end(
    rank: int, returncode: int, *, at_s: float = 0.0, log: str = "", told: dict[str, Any] | None = None
) -> WorkerEnd:
    result = None if told is None else WorkerResult(rank=rank, **told)
    return WorkerEnd(rank, rank, 100 + rank, returncode, at_s, result, log)


def test_a_user_s_code_counts_more_than_an_earlier_crash():
    group = judge([end(0, 1, at_s=1.0), end(1, 11, at_s=2.0)])

    assert group.code == 11


def test_a_cause_counts_more_than_a_lost_peer_that_was_seen_first():
    group = judge([end(0, 23, at_s=1.0), end(1, -9, at_s=2.0)])

    assert group.code == ExitCode.KILLED
    assert group.first is not None
    assert group.first.rank == 1


def test_a_checkpoint_that_was_asked_for_and_saved_counts_more_than_a_crash_beside_it():
    group = judge([end(0, 1, at_s=1.0), end(1, 20, at_s=2.0, told={"code": 20, "checkpoint_step": 7})])

    assert (group.code, group.checkpoint_step) == (20, 7)
    assert judge([end(0, 20), end(1, 14)]).code == 14


def test_among_equals_the_first_noticed_counts():
    group = judge([end(0, 1, at_s=2.0), end(1, 24, at_s=1.0)])

    assert group.code == 24


def test_workers_that_the_launcher_ended_explain_nothing():
    group = judge([end(0, -15), end(1, -9)], stopped_by_us={0, 1})

    assert (group.code, group.first) == (ExitCode.TERMINATED, None)


def test_the_last_word_counts_more_than_a_crash_after_it():
    group = judge([end(0, -11, told={"code": 0, "step": 5, "metrics": {"bbox_AP": 0.4}})])

    assert (group.code, group.step, group.metrics) == (0, 5, {"bbox_AP": 0.4})


def test_facts_are_gathered_from_all_workers():
    group = judge(
        [
            end(0, 16, told={"code": 16, "step": 4, "checkpoint_step": 2, "micro_batch": 4}),
            end(1, 16, told={"code": 16, "step": 5, "checkpoint_step": 3, "micro_batch": 2}),
        ]
    )

    assert (group.step, group.checkpoint_step, group.micro_batch) == (5, 3, 4)


@pytest.mark.parametrize(
    "text",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    ],
)
def test_a_device_out_of_memory_is_recognised_by_its_words(text: str):
    assert end(0, 1, log=text).is_out_of_memory
    assert end(0, -6, log=text).is_out_of_memory
    assert end(0, 1, told={"code": 1, "traceback": text}).is_out_of_memory


def test_host_memory_and_other_codes_are_not_a_device_out_of_memory():
    assert not end(0, -9, log="CUDA out of memory").is_out_of_memory
    assert not end(0, 11, log="CUDA out of memory").is_out_of_memory
    assert not end(0, 1, log="MemoryError: out of memory").is_out_of_memory


def test_a_killed_worker_is_named_by_rank_signal_and_last_line():
    text = end(3, -9, log=f"step 4\n{TRACE}\n").describe()

    assert text.startswith("rank 3 (pid 103) was killed by SIGKILL")
    assert text.endswith("KeyError: 3")


def test_an_unknown_signal_is_named_by_number():
    assert "signal 77" in end(0, -77).describe()


def test_the_newest_traceback_in_the_log_is_shown_but_none_for_a_user_s_error():
    log = f"{TRACE}\nlater\nTraceback (most recent call last):\n  File b\nValueError: x\n"

    assert end(0, 1, log=log).traceback.endswith("ValueError: x")
    assert end(0, 1, told={"code": 1, "traceback": "own"}, log=log).traceback == "own"
    assert end(0, 11, told={"code": 11}, log=log).traceback == ""
    assert last_traceback("all is well") == ""


def test_stacks_of_a_fatal_error_are_a_traceback_too():
    assert last_traceback("x\nFatal Python error: Segmentation fault\n\nThread 1").startswith("Fatal Python error")
