"""A growing log in the run's store."""

from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.store import kept_log
from sam3ft_trainer.store.kept_log import keep_piece, kept_from, newest_lines, read_on
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.tails import forget_old_tails, read_tails

OWNER = "7f2c0f0e-6f5e-4e7c-9a53-0d3c6c1d2b10"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.log"
    path.touch()
    return path


def add(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def read(store: Store, start: int = 0) -> str:
    return "".join(text for text, _ in read_on(store, owner=OWNER, start=start))


def test_whole_lines_are_kept_as_they_come_and_the_rest_at_the_end(folder_store: Store, log: Path):
    add(log, "one\ntw")
    at = keep_piece(folder_store, log, owner=OWNER, start=0)
    assert (4, "one\n") == (at, read(folder_store))
    assert 4 == keep_piece(folder_store, log, owner=OWNER, start=at)

    add(log, "o\nthree")
    at = keep_piece(folder_store, log, owner=OWNER, start=at)
    assert "one\ntwo\n" == read(folder_store)
    assert "two\n" == read(folder_store, start=4)

    assert log.stat().st_size == keep_piece(folder_store, log, owner=OWNER, start=at, is_over=True)
    assert log.read_text() == read(folder_store)


def test_what_was_kept_and_not_noted_is_found_and_read_once(folder_store: Store, log: Path):
    add(log, "one\n")
    at = keep_piece(folder_store, log, owner=OWNER, start=0)
    add(log, "two\n")
    keep_piece(folder_store, log, owner=OWNER, start=at)  # its answer is lost
    add(log, "three\n")
    at = kept_from(folder_store, owner=OWNER, start=0)
    assert 8 == at
    keep_piece(folder_store, log, owner=OWNER, start=at)

    assert "one\ntwo\nthree\n" == read(folder_store)
    assert ["two\n", "three\n"] == [text for text, _ in read_on(folder_store, owner=OWNER, start=4)]
    assert (["two", "three"], 14) == newest_lines(folder_store, owner=OWNER, lines=2)
    assert (["one", "two", "three"], 14) == newest_lines(folder_store, owner=OWNER, lines=9)


def test_large_logs_are_kept_in_pieces_and_lines_longer_than_one_are_cut(
    folder_store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept_log, "PIECE_BYTES", 100)
    add(log, "".join(f"line {number}\n" for number in range(100)) + "x" * 250 + "\nend\n")
    at, calls = 0, 0
    while at < log.stat().st_size:
        at, calls = keep_piece(folder_store, log, owner=OWNER, start=at), calls + 1
        assert calls < 20

    assert log.read_text() == read(folder_store)
    assert ["end"] == newest_lines(folder_store, owner=OWNER, lines=1)[0]


def test_secrets_are_not_kept_and_bytes_are_counted_as_they_lie_in_the_log(folder_store: Store, log: Path):
    add(log, "AWS_SECRET_ACCESS_KEY=abcdef0123456789\nä\n")
    with log.open("ab") as file:
        file.write(b"\xff\xfe\n")

    assert log.stat().st_size == keep_piece(folder_store, log, owner=OWNER, start=0)
    assert "AWS_SECRET_ACCESS_KEY=***\nä\n\ufffd\ufffd\n" == read(folder_store)


def test_the_logs_of_two_runs_and_the_last_lines_of_ranks_do_not_mix(folder_store: Store, log: Path):
    add(log, "one\n")
    keep_piece(folder_store, log, owner=OWNER, start=0)

    assert ([], 0) == newest_lines(folder_store, owner="other", lines=5)
    assert [] == read_tails(folder_store)
    assert 0 == forget_old_tails(folder_store, keep=0)
    assert "one\n" == read(folder_store)


@pytest.mark.parametrize("owner", ["", "..", "a/b", "a b", "x" * 200])
def test_what_is_no_identity_is_refused(folder_store: Store, log: Path, owner: str):
    add(log, "one\n")
    with pytest.raises(InvalidConfig, match="no identity"):
        keep_piece(folder_store, log, owner=owner, start=0)
