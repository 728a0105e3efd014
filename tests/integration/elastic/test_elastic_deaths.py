"""Nodes that die or fall silent: how soon the others go on, and what it costs."""

import itertools
import signal
import sys

import pytest
from elastic_site import GLOO_MEMBER, Group, medians_within
from launcher_site import is_alive

DEATH_S = 1.0
SILENCE_S = 5.0
NO_BUDGET = ("--max-restarts", "0")
"""Ends a run at the first restart that is counted: those by deaths and newcomers are not."""


def measure_deaths(group: Group, slots: list[int], *, processes: int = 1) -> list[float]:
    """Kill the launcher of each slot in turn and let a replacement join; return the times to the smaller round."""
    times = []
    for slot in slots:
        others = [other for other in (0, 1, 2) if other != slot]
        group.wait_steps()
        orphans = group.workers(slot)
        killed_at = group.kill(slot)
        times.append(group.wait_formed(*others, after=killed_at, processes=processes) - killed_at)
        group.wait_steps(more=12)  # beyond those that the death has cost, at most one interval between commits
        lost = group.lost_steps()
        group.start(slot, processes=processes, arguments=NO_BUDGET)
        group.wait_formed(0, 1, 2, after=killed_at, processes=processes)
        group.wait_steps()
        assert lost == group.lost_steps(), "a step was lost when the replacement joined"
        assert len(orphans) == processes
        assert [] == [pid for pid in orphans if is_alive(pid)], "workers outlived their launcher"
    return times


def check_deaths(group: Group, count: int, *, processes: int = 1) -> None:
    group.start_coordinator()
    group.start(0, 1, 2, processes=processes, arguments=NO_BUDGET)
    group.wait_formed(0, 1, 2, processes=processes)
    medians_within(
        {"rank 0's launcher killed": DEATH_S, "another launcher killed": DEATH_S},
        lambda: {
            "rank 0's launcher killed": measure_deaths(group, [0] * count, processes=processes),
            "another launcher killed": measure_deaths(
                group, list(itertools.islice(itertools.cycle((1, 2)), count)), processes=processes
            ),
        },
    )
    assert [None] * 3 == [node.process.poll() for node in group.nodes.values()]


def test_a_killed_launcher_is_out_within_a_second_and_its_replacement_loses_no_step(far_group: Group):
    check_deaths(far_group, 5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_deaths_in_a_row_are_each_over_within_a_second(far_group: Group):
    check_deaths(far_group, 25)


def test_nodes_of_two_workers_go_on_as_fast(group: Group):
    check_deaths(group, 3, processes=2)


def measure_silence(group: Group, slots: list[int], *, silence: str) -> list[float]:
    """Silence each node in turn and let it come back; return the times to the smaller round."""
    times = []
    for slot in slots:
        others = [other for other in (0, 1, 2) if other != slot]
        group.wait_steps()
        silent_at = group.signal_node(slot, signal.SIGSTOP) if silence == "stopped" else group.cut(slot)
        times.append(group.wait_formed(*others, after=silent_at) - silent_at)
        group.wait_steps()
        if silence == "stopped":
            group.signal_node(slot, signal.SIGCONT)
        else:
            group.mend(slot)
        group.wait_formed(0, 1, 2, after=silent_at)
    return times


def check_silence(group: Group, slots: list[int], *, silence: str) -> None:
    group.start_coordinator()
    group.start(0, 1, 2, arguments=NO_BUDGET)
    group.wait_formed(0, 1, 2)
    medians_within(
        {f"a node {silence}": SILENCE_S}, lambda: {f"a node {silence}": measure_silence(group, slots, silence=silence)}
    )
    assert [None] * 3 == [node.process.poll() for node in group.nodes.values()]


@pytest.mark.parametrize("silence", ["stopped", "cut off"])
def test_a_node_that_falls_silent_is_out_within_five_seconds_and_comes_back(far_group: Group, silence: str):
    check_silence(far_group, [0, 1, 2], silence=silence)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("silence", ["stopped", "cut off"])
def test_many_silent_nodes_in_a_row_are_each_out_within_five_seconds(far_group: Group, silence: str):
    check_silence(far_group, [0, 1, 2] * 5, silence=silence)


def test_a_group_of_real_torch_workers_goes_on_after_deaths_and_trains_again(far_group: Group):
    group = far_group
    workers = (sys.executable, str(GLOO_MEMBER), str(group.store))
    group.start_coordinator()
    group.start(0, 1, 2, command=workers, arguments=NO_BUDGET)
    group.wait_formed(0, 1, 2, event="trained")
    times = []
    for slot in (0, 2):
        others = [other for other in (0, 1, 2) if other != slot]
        killed_at = group.kill(slot)
        trained_at = group.wait_formed(*others, after=killed_at, event="trained")
        times.append(trained_at - killed_at)
        group.start(slot, command=workers, arguments=NO_BUDGET)
        group.wait_formed(0, 1, 2, after=trained_at, event="trained")

    print(f"from a death to the first step of the smaller group, torch and trainer imported anew: {times}")
    assert group.rounds() == 5
