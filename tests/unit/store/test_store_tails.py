"""Last lines of failed ranks in the run's store."""

import pytest

from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.tails import TAIL_BYTES, LogTail, forget_old_tails, keep_tail, last_lines, read_tails


def test_lines_are_kept_under_what_they_belong_to_and_read_back_newest_first(folder_store: Store):
    assert [] == read_tails(folder_store)
    key = keep_tail(folder_store, "one\n", attempt=2, rank=3, end="15", clock=lambda: 1_700_000_000.25)
    keep_tail(folder_store, "two\n", attempt=3, rank=0, end="killed", clock=lambda: 1_700_000_001.0)
    folder_store.put("logs/notes.txt", b"not ours")

    assert "logs/a2-rank3-20231114T221320250-15.log" == key
    assert [
        LogTail(3, 0, "20231114T221321000", "killed", "two\n"),
        LogTail(2, 3, "20231114T221320250", "15", "one\n"),
    ] == read_tails(folder_store)
    assert ["two\n"] == [tail.text for tail in read_tails(folder_store, newest=1)]


def test_lines_of_one_moment_are_never_overwritten(folder_store: Store):
    for text in ("first", "second"):
        keep_tail(folder_store, text, attempt=1, rank=0, end="1", clock=lambda: 5.0)

    assert ["first"] == [tail.text for tail in read_tails(folder_store)]


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_only_the_end_is_kept_in_whole_lines_and_without_secrets(letter: str):
    setting = "AWS_SECRET_ACCESS_KEY=abcdef0123456789"
    text = "".join(f"line {number} {letter * 50} {setting}\n" for number in range(2000))
    kept = last_lines(text)

    assert TAIL_BYTES - 300 < len(kept.encode()) <= TAIL_BYTES
    assert "abcdef" not in kept
    assert kept.startswith("line ")
    assert kept.endswith("AWS_SECRET_ACCESS_KEY=***\n")
    assert "line 1999 " in kept


def test_a_short_text_is_kept_whole():
    assert "a\nb" == last_lines("a\nb")


def test_old_lines_go_and_other_objects_stay(folder_store: Store):
    folder_store.put("logs/notes.txt", b"not ours")
    for number in range(5):
        keep_tail(folder_store, str(number), attempt=1, rank=number, end="1", clock=lambda number=number: float(number))

    assert 3 == forget_old_tails(folder_store, keep=2)
    assert ["4", "3"] == [tail.text for tail in read_tails(folder_store)]
    assert b"not ours" == folder_store.get("logs/notes.txt")
