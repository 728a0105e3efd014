"""Tails of files that grow."""

import threading
from pathlib import Path

import pytest

from sam3ft_launch.folder.logs import follow_lines, last_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.log"


def test_a_missing_file_has_no_lines(path: Path):
    assert [] == last_lines(path, lines=10)


@pytest.mark.parametrize(
    ("text", "lines", "expected"),
    [
        ("a\nb\nc\n", 2, ["b", "c"]),
        ("a\nb\nc\n", 9, ["a", "b", "c"]),
        ("a\n\nc\n", 9, ["a", "", "c"]),
        ("a\nb", 9, ["a"]),
        ("", 9, []),
        ("a\n", 0, []),
    ],
)
def test_the_last_whole_lines_are_shown(path: Path, text: str, lines: int, expected: list[str]):
    path.write_text(text)

    assert expected == last_lines(path, lines=lines)


def test_a_large_file_is_read_from_its_end(path: Path):
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))

    assert ["line 99998", "line 99999"] == last_lines(path, lines=2)


def test_following_ends_with_everything_when_the_run_is_over(path: Path):
    path.write_text("a\nb\nunfinished")

    assert ["b", "unfinished"] == list(follow_lines(path, lines=1, is_over=lambda: True))


def test_lines_written_while_following_are_shown_once(path: Path):
    path.write_text("old\n")
    over = threading.Event()
    lines = follow_lines(path, lines=5, is_over=over.is_set)
    assert "old" == next(lines)

    with path.open("a") as stream:
        stream.write("new 1\nnew")
        stream.flush()
        assert "new 1" == next(lines)
        stream.write(" 2\n")
    over.set()

    assert ["new 2"] == list(lines)


def test_the_last_lines_written_before_the_end_are_not_lost(path: Path):
    path.write_text("")
    answers = iter([False, True])

    def is_over() -> bool:
        over = next(answers)
        if over:
            path.write_text("last words\n")
        return over

    assert ["last words"] == list(follow_lines(path, lines=5, is_over=is_over))


def test_a_character_cut_in_two_is_shown_whole(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_launch.folder.logs._POLL_S", 0.0)
    data = "näh 漢字 🙂\n".encode()
    path.write_bytes(b"")
    position = iter(range(1, len(data) + 1))

    def is_over() -> bool:
        cut = next(position, None)
        if cut is None:
            return True
        path.write_bytes(data[:cut])
        return False

    shown = list(follow_lines(path, lines=5, is_over=is_over))

    assert ["näh 漢字 🙂"] == shown
