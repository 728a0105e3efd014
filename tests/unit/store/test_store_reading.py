"""Reading a run that somebody else owns, perhaps while it goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sam3ft_api.errors import CheckpointIncompatible, InvalidConfig, StorageDenied
from sam3ft_trainer.store.checkpoint import RunStore
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.reading import RunReader, open_run_reader
from sam3ft_trainer.store.records import CommitMeta

States = Callable[[int], dict[str, Tensor]]
GROUPS = frozenset({"model", "ema"})


def only_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name.split("/")[0] in GROUPS}


@pytest.fixture
def run(open_run: Callable[..., RunStore], state_at: States) -> RunStore:
    """A run with commits of steps 1, 2 and 3."""
    opened = open_run(keep_last=3)
    opened.restore({})
    for step in (1, 2, 3):
        opened.save(state_at(step), CommitMeta(step=step), wait=True)
    return opened


def log_of(address: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(address, "log").iterdir()}


def damage(reader: RunReader, address: str, step: int) -> None:
    commit = next(commit for commit in reader.history().usable_commits() if commit.meta.step == step)
    file = Path(address, next(file.key for file in commit.files if file.group == "model"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(("asked", "expected"), [(None, 3), (2, 2)])
def test_the_newest_or_the_named_commit_is_read(
    run: RunStore, address: str, state_at: States, empty_targets: States, asked: int | None, expected: int
):
    targets = only_weights(empty_targets())

    read = open_run_reader(address).load(targets, groups=GROUPS, step=asked)

    assert (expected, ()) == (read.commit.meta.step, read.passed_over)
    assert all(torch.equal(tensor, targets[name]) for name, tensor in only_weights(state_at(expected)).items())


def test_reading_writes_nothing_and_the_run_goes_on(
    run: RunStore, address: str, state_at: States, empty_targets: States
):
    before = log_of(address)

    open_run_reader(address).load(only_weights(empty_targets()), groups=GROUPS)

    assert before == log_of(address)
    run.save(state_at(4), CommitMeta(step=4), wait=True)
    assert 4 == run.newest_step


def test_a_damaged_newest_commit_is_passed_over_and_told(run: RunStore, address: str, empty_targets: States):
    reader = open_run_reader(address)
    damage(reader, address, 3)
    before = log_of(address)

    read = reader.load(only_weights(empty_targets()), groups=GROUPS)

    assert 2 == read.commit.meta.step
    assert read.passed_over[0].startswith("step 3 cannot be read: ")
    assert before == log_of(address)


def test_a_damaged_commit_that_was_named_is_refused(run: RunStore, address: str, empty_targets: States):
    reader = open_run_reader(address)
    damage(reader, address, 3)

    with pytest.raises(CheckpointIncompatible, match="step 3 cannot be read"):
        reader.load(only_weights(empty_targets()), groups=GROUPS, step=3)


def test_a_commit_that_is_deleted_while_it_is_read_gives_way_to_a_newer_one(
    run: RunStore, address: str, folder_store: Store, state_at: States, empty_targets: States
):
    class Late(Store):
        """The run makes three more commits, and deletes all others, before the first file is read."""

        calls = 0

        def get_range(self, key: str, start: int, length: int) -> memoryview:
            self.calls += 1
            if self.calls == 1:
                for step in (4, 5, 6):
                    run.save(state_at(step), CommitMeta(step=step), wait=True)
                run.close()
            return super().get_range(key, start, length)

    reader = RunReader(Late(folder_store._backend, address=address, folder=folder_store.folder), outage_s=1.0)

    read = reader.load(only_weights(empty_targets()), groups=GROUPS)

    assert (6, 1) == (read.commit.meta.step, len(read.passed_over))


def test_a_step_that_is_not_kept_is_answered_with_those_that_are(run: RunStore, address: str, empty_targets: States):
    with pytest.raises(InvalidConfig, match=r"keeps no commit of step 9; it has 3, 2, 1$"):
        open_run_reader(address).load(only_weights(empty_targets()), groups=GROUPS, step=9)


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointIncompatible, match="holds no run"):
        open_run_reader(str(tmp_path)).history()


def test_a_run_before_its_first_commit_is_refused(open_run: Callable[..., RunStore], address: str):
    open_run()

    with pytest.raises(CheckpointIncompatible, match="has no commit yet"):
        open_run_reader(address).history()


def test_a_missing_folder_is_not_made(tmp_path: Path):
    with pytest.raises(StorageDenied, match="does not exist"):
        open_run_reader(str(tmp_path / "typo"))

    assert [] == list(tmp_path.iterdir())


def test_an_address_is_needed():
    with pytest.raises(InvalidConfig, match=r"checkpoint\.uri is not set"):
        open_run_reader(None)
