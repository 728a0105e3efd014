"""What follows from the launchers' end: one code for all nodes, and what the batch script does next."""

import pytest

from sam3ft_api.plan import RestartBudget
from sam3ft_api.termination import Termination
from sam3ft_launch.restart import LauncherEnd
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


def test_ends_in_a_row_without_a_newer_commit_are_bounded_also_over_requeues():
    ends = [LauncherEnd(20, float(at), True, 7) for at in range(4)]

    found = decide(ends, budget=BUDGET, word="RUNNING", is_requeued=False, stop_requested=False, can_requeue=True)

    assert "end 20" == found.line
    assert "4 ends in a row" in found.message
