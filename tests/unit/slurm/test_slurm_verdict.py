"""What follows from the launchers' end: one code for all nodes, and what the batch script does next."""

from typing import Any

import pytest

from sam3ft_api.plan import RestartBudget
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.ends import PastEnd
from sam3ft_launch.restart import LauncherEnd
from sam3ft_launch.slurm.bad_nodes import away_from, blamed
from sam3ft_launch.slurm.verdict import Next, code_of, decide

BUDGET = RestartBudget(max_restarts=2, window_s=3600, max_without_progress=4)


def words(*codes: int) -> list[Termination]:
    return [Termination(code=code, reason="Any") for code in codes]


@pytest.mark.parametrize(
    ("step", "codes", "nodes", "code"),
    [
        (0, (0, 0), 2, 0),
        (0, (0,), 2, 23),  # a node has failed, for which srun ends with 0
        (0, (), 1, 23),
        (11, (11, 23), 2, 11),
        (23, (23, 11), 2, 11),
        (20, (20, 20), 2, 20),
        (143, (20, 143), 2, 20),
        (137, (23,), 2, 137),
        (1, (), 2, 1),
        (0, (0, 20), 2, 20),
    ],
)
def test_one_code_speaks_for_all_launchers(step: int, codes: tuple[int, ...], nodes: int, code: int):
    assert code == code_of(step, words(*codes), nodes=nodes)


def following(*codes: int, word: str = "RUNNING", requeued: bool = False, stop: bool = False, can: bool = True) -> Next:
    ends = [LauncherEnd(code, float(at), True, at) for at, code in enumerate(codes)]
    return decide(ends, budget=BUDGET, word=word, is_requeued=requeued, stop_requested=stop, can_requeue=can)


@pytest.mark.parametrize(
    ("found", "line", "code"),
    [
        (following(0), "end 0", 0),
        (following(11), "end 11", 11),
        (following(20), "requeue", None),
        (following(20, stop=True), "end 20", 20),
        (following(20, can=False), "end 20", 20),
        (following(20, word="COMPLETING"), "end 20", 20),
        (following(20, word="COMPLETING", requeued=True), "queued", None),
        (following(23, word="PENDING", requeued=True), "queued", None),
        (following(20, word="COMPLETING", stop=True), "end 20", 20),
        (following(0, word="COMPLETING"), "end 0", 0),
        (following(23), "again 1", None),
        (following(137), "again 1", None),
        (following(137, 137, 137), "end 137", 137),
        (following(20, word=""), "requeue", None),
    ],
)
def test_the_next_step_follows_from_the_end(found: Next, line: str, code: int | None):
    assert (line, code) == (found.line, found.code)


def end(node: str, commit_step: int | None = None) -> PastEnd:
    return PastEnd(code=1 if node else 23, reason="Any", at_unix_s=0, node=node, commit_step=commit_step)


@pytest.mark.parametrize(
    ("codes", "node"),
    [
        ({0: 1, 1: 23}, "n1"),
        ({0: 23, 1: 24}, "n2"),
        ({1: 137}, "n2"),
        ({0: 1, 1: 1}, ""),  # what fails on all nodes is no node's doing
        ({0: 23, 1: 23}, ""),
        ({0: 11, 1: 23}, ""),  # wrong data is not
        ({0: 22}, ""),
        ({0: 20, 1: 20}, ""),
        ({}, ""),
        ({5: 1}, ""),
    ],
)
def test_the_node_that_alone_failed_by_itself_is_blamed(codes: dict[int, int], node: str):
    said = {slot: Termination(code=code, reason="Any") for slot, code in codes.items()}

    assert node == blamed(said, ["n1", "n2"])


@pytest.mark.parametrize(
    ("nodes", "node"),
    [
        (("node-1", "node-1"), "n2"),  # all end with the code of the one, and say whose it was
        (("node-0", "node-1"), ""),
        (("node-7", "node-7"), ""),  # another job's
        (("", "node-0"), "n1"),
        (("somewhere",), ""),
    ],
)
def test_whoever_ends_for_another_nodes_sake_says_so(nodes: tuple[str, ...], node: str):
    said = {slot: Termination(code=1, reason="Any", node=name) for slot, name in enumerate(nodes)}

    assert node == blamed(said, ["n1", "n2"])


@pytest.mark.parametrize(
    ("ends", "spare", "away"),
    [
        ([end("n1")], 1, ("n1",)),
        ([end("n1")], 0, ()),
        ([end("n1")], -2, ()),  # nobody knows the partition
        ([end("")], 9, ()),
        ([end("n1"), end("")], 9, ()),
        ([end(""), end("n1")], 9, ("n1",)),
        ([end("n1"), end("n2")], 9, ()),  # what fails on two nodes fails by itself
        ([end("n1", 5), end("n2", 5)], 9, ()),
        ([end("n1", 5), end("n2", 9)], 9, ("n2", "n1")),
        ([end("n1", 5), end("n2", 9)], 1, ("n2",)),
        ([end("n1", 1), end("", 2), end("n2", 3)], 9, ("n2", "n1")),
        ([end("n1", 5), end("n1", 9)], 9, ("n1",)),
        ([end("n1", 5), end("n1", 5)], 9, ()),  # the site did not keep it away
        ([end("n1", 1), end("n2", 2), end("n3", 3), end("n4", 4)], 9, ()),
    ],
)
def test_a_run_keeps_away_from_a_node_that_failed_until_another_fails_as_well(
    ends: list[PastEnd], spare: int, away: tuple[str, ...]
):
    assert away == away_from(ends, spare=spare)


def test_a_run_goes_elsewhere_also_where_its_launcher_has_spent_its_restarts():
    spent = [LauncherEnd(1, 0.0, True, None)]

    def after(**changes: Any) -> str:
        how = {"word": "RUNNING", "is_requeued": False, "stop_requested": False, "can_requeue": True, **changes}
        return decide(spent, budget=BUDGET, **how).line

    assert "end 1" == after()
    assert "elsewhere n2,n1" == after(away=("n2", "n1"))
    assert "end 1" == after(away=("n2",), can_requeue=False)
    assert "end 1" == after(away=("n2",), stop_requested=True)
    assert "queued" == after(away=("n2",), word="COMPLETING", is_requeued=True)


def test_ends_in_a_row_without_a_newer_commit_are_bounded_also_over_requeues():
    ends = [LauncherEnd(20, float(at), True, 7) for at in range(4)]

    found = decide(ends, budget=BUDGET, word="RUNNING", is_requeued=False, stop_requested=False, can_requeue=True)

    assert "end 20" == found.line
    assert "4 ends in a row" in found.message
