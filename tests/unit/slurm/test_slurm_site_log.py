"""`sam3ft logs` of a run on a site, from beside its checkpoints."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.cli.cluster.site_log import LAST_LINES_S, SiteLog
from sam3ft_launch.cli.trainer import TrainerAnswer
from sam3ft_launch.kubernetes.runs import ClusterRun


def run(uri: str = "s3://bucket/blood", **spec: Any) -> ClusterRun:
    now = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
    return ClusterRun("blood", "vision", "u-1", 1, now, None, {"checkpoint": {"uri": uri}, **spec})


class Kept:
    """Lines that are there after so many seconds, and a trainer that reads them: a line is a byte here."""

    def __init__(self, lines: Mapping[float, str]) -> None:
        self.lines, self.now_s, self.asked = lines, 0.0, list[Sequence[str]]()

    def ask(self, words: list[str]) -> TrainerAnswer:
        self.asked.append(words)
        there = [line for at_s, line in self.lines.items() if at_s <= self.now_s]
        start = int(words[-1]) if words[-2] == "--start" else max(0, len(there) - int(words[-1]))
        return TrainerAnswer(0, {"lines": there[start:], "next": len(there)}, "")

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def log(self, of: ClusterRun) -> SiteLog:
        return SiteLog(of, self.ask, lambda: self.now_s, self.sleep)


def test_the_newest_lines_are_asked_for_with_the_runs_profile():
    kept = Kept({0.0: "one", -1.0: "two"})

    assert ["two"] == kept.log(run(storage={"profile": "minio"})).newest(lines=1)
    assert [["lines", "s3://bucket/blood", "u-1", "--profile", "minio", "--newest", "1"]] == kept.asked


def test_lines_are_followed_until_the_run_has_ended_and_its_last_ones_have_come():
    kept = Kept({0.0: "one", 7.0: "two", 21.0: "three", 20.0 + LAST_LINES_S - 10: "last"})

    assert ["one", "two", "three", "last"] == list(kept.log(run()).follow(lines=10, is_over=lambda: kept.now_s >= 20))
    assert 20 + LAST_LINES_S < kept.now_s < 40 + LAST_LINES_S


@pytest.mark.parametrize("uri", ["/scratch/blood", "file:///scratch/blood", ""])
def test_a_folder_on_the_site_is_not_read_from_here(uri: str):
    kept = Kept({0.0: "one"})
    log = kept.log(run(uri))

    assert [] == list(log.follow(lines=10, is_over=lambda: False))
    assert "is a folder on the site" in log.problem
    assert [] == kept.asked


def test_what_cannot_be_read_is_said_once():
    def refuses(_words: list[str]) -> TrainerAnswer:
        return TrainerAnswer(13, {"message": "403\nmore"}, "")

    def has_no_libraries(_words: list[str]) -> TrainerAnswer:
        raise InvalidConfig("no torch")

    for ask, words in ((refuses, "s3://bucket/blood cannot be read: 403"), (has_no_libraries, "here: no torch")):
        log = SiteLog(run(), ask)
        assert [] == list(log.follow(lines=1, is_over=lambda: False))
        assert log.problem.endswith(words)
