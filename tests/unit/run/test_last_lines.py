"""Which last lines a worker keeps: its own failure's, and those of a predecessor that was killed."""

import time
from pathlib import Path

import pytest

from sam3ft_api.errors import StorageUnavailable
from sam3ft_api.exit_codes import ExitCode
from sam3ft_trainer.run import last_lines
from sam3ft_trainer.run.last_lines import LastLines
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.tails import read_tails
from sam3ft_trainer.store.uri import open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"), create=True)


def write(work_dir: Path, text: str) -> None:
    path = work_dir / "logs" / "rank-0.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as log:
        log.write(text)


def kept(store: Store) -> list[tuple[str, str]]:
    return [(tail.end, tail.text) for tail in read_tails(store)]


def test_a_failure_keeps_the_lines_since_its_start_and_nothing_older(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "of an earlier worker\n")
    lines = LastLines(tmp_path, rank=0, attempt=1)
    write(tmp_path, "Traceback ...\n")
    lines.keep_own(store, ExitCode.INTERNAL_ERROR, "unused")
    lines.close()

    assert [("1", "Traceback ...\n")] == kept(store)
    assert None is LastLines(tmp_path, rank=0, attempt=2).keep_left_behind(store)


def test_a_worker_without_a_log_keeps_its_words(tmp_path: Path, store: Store) -> None:
    LastLines(tmp_path, rank=0, attempt=1).keep_own(store, ExitCode.NON_FINITE_LOSS, "loss is nan")

    assert [("15", "loss is nan")] == kept(store)


@pytest.mark.parametrize("code", [0, 20, 21, 22, 23, 26, 143])
def test_ends_that_explain_nothing_keep_nothing(tmp_path: Path, store: Store, code: int) -> None:
    LastLines(tmp_path, rank=0, attempt=1).keep_own(store, code, "words")

    assert [] == kept(store)


def test_an_address_that_was_not_claimed_is_not_written_to(tmp_path: Path, store: Store) -> None:
    LastLines(tmp_path, rank=0, attempt=1).keep_own(None, 1, "words")

    assert [] == kept(store)


def test_the_lines_of_a_killed_worker_are_kept_by_the_next_one(tmp_path: Path, store: Store) -> None:
    LastLines(tmp_path, rank=0, attempt=4)  # and is killed: it closes nothing
    write(tmp_path, "the last words\n")
    write(tmp_path, "--- header of the next\n")
    lines = LastLines(tmp_path, rank=0, attempt=5)
    write(tmp_path, "words of the next\n")
    thread = lines.keep_left_behind(store)
    assert thread is not None
    thread.join(10)

    assert [("killed", "the last words\n--- header of the next\n")] == kept(store)
    assert [4] == [tail.attempt for tail in read_tails(store)]


def test_a_log_that_was_moved_aside_since_is_found(tmp_path: Path, store: Store) -> None:
    write(tmp_path, "x" * 100)
    LastLines(tmp_path, rank=0, attempt=1)
    write(tmp_path, "the last words\n")
    (tmp_path / "logs" / "rank-0.log").replace(tmp_path / "logs" / "rank-0.log.1")
    write(tmp_path, "new\n")
    thread = LastLines(tmp_path, rank=0, attempt=1).keep_left_behind(store)
    assert thread is not None
    thread.join(10)

    assert [("killed", "the last words\n")] == kept(store)


def test_a_store_that_does_not_answer_holds_the_end_up_for_seconds_only(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_lines, "LAST_ACT_S", 0.2)
    monkeypatch.setattr(Store, "put_if_absent", lambda *_: time.sleep(2))
    started = time.monotonic()
    LastLines(tmp_path, rank=0, attempt=1).keep_own(store, 1, "words")

    assert time.monotonic() - started < 1.0


def test_a_store_that_refuses_ends_nothing(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageUnavailable("no answer")

    monkeypatch.setattr(Store, "put_if_absent", refuse)
    LastLines(tmp_path, rank=0, attempt=1).keep_own(store, 1, "words")
    assert [] == kept(store)
