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


def start_group(group: Group, *, processes: int = 1) -> None:
    group.start_coordinator()
    group.start(0, 1, 2, processes=processes, arguments=NO_BUDGET)
    group.wait_formed(0, 1, 2, processes=processes)


def check_deaths(group: Group, count: int) -> None:
    start_group(group)
    first, other = "rank 0's launcher killed", "another launcher killed"
    others = list(itertools.islice(itertools.cycle((1, 2)), count))
    medians_within(
        {first: DEATH_S, other: DEATH_S},
        lambda: {first: measure_deaths(group, [0] * count), other: measure_deaths(group, others)},
    )
    assert [None] * 3 == [node.process.poll() for node in group.nodes.values()]


def test_a_killed_launcher_is_out_within_a_second_and_its_replacement_loses_no_step(far_group: Group):
    check_deaths(far_group, 5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_deaths_in_a_row_are_each_over_within_a_second(far_group: Group):
    check_deaths(far_group, 25)


def test_nodes_of_two_workers_go_on_as_fast(group: Group):
    start_group(group, processes=2)
    name = "a launcher of two workers killed"
    medians_within({name: DEATH_S}, lambda: {name: measure_deaths(group, [0, 2, 1], processes=2)})


def measure_silence(group: Group, slots: list[int], *, is_cut: bool) -> list[float]:
    """Silence each node in turn and let it come back; return the times to the smaller round."""
    times = []
    for slot in slots:
        others = [other for other in (0, 1, 2) if other != slot]
        group.wait_steps()
        silent_at = group.cut(slot) if is_cut else group.signal_node(slot, signal.SIGSTOP)
        times.append(group.wait_formed(*others, after=silent_at) - silent_at)
        group.wait_steps()
        if is_cut:
            group.mend(slot)
        else:
            group.signal_node(slot, signal.SIGCONT)
        group.wait_formed(0, 1, 2, after=silent_at)
    return times


def check_silence(group: Group, *, stopped_slots: list[int], cut_slots: list[int]) -> None:
    start_group(group)
    stopped, cut = "a node stopped", "a node cut off"
    medians_within(
        {stopped: SILENCE_S, cut: SILENCE_S},
        lambda: {
            stopped: measure_silence(group, stopped_slots, is_cut=False),
            cut: measure_silence(group, cut_slots, is_cut=True),
        },
    )
    assert [None] * 3 == [node.process.poll() for node in group.nodes.values()]


def test_a_node_that_is_stopped_or_cut_off_is_out_within_five_seconds_and_comes_back(far_group: Group):
    check_silence(far_group, stopped_slots=[0], cut_slots=[0, 1, 2])


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_silent_nodes_in_a_row_are_each_out_within_five_seconds(far_group: Group):
    check_silence(far_group, stopped_slots=[0, 1, 2] * 7, cut_slots=[0, 1, 2] * 7)


@pytest.mark.soak
def test_real_torch_workers_train_again_in_the_smaller_group(far_group: Group):
    group = far_group
    group.start_coordinator()
    group.start(0, 1, 2, command=(sys.executable, str(GLOO_MEMBER), str(group.store)), arguments=NO_BUDGET)
    group.wait_formed(0, 1, 2, event="trained")
    killed_at = group.kill(0)
    trained_at = group.wait_formed(1, 2, after=killed_at, event="trained")

    print(f"death to training, torch and the trainer imported anew: {trained_at - killed_at:.2f} s")
    group.wait_steps()
    assert group.rounds() == 2
    assert [None, None] == [group.nodes[slot].process.poll() for slot in (1, 2)]
