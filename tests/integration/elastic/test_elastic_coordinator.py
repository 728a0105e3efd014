"""Outages of the coordinator in a run of several nodes."""

import signal
import time

import pytest
from elastic_site import Group
from launcher_site import wait_for


def check_undisturbed(group: Group) -> None:
    """Nobody was stopped: one start on every node, and no step done twice."""
    group.wait_steps()
    wait_for(lambda: len(group.progress()["nodes"]) == 3, what="all nodes are back")
    assert group.progress()["state"] == "running"
    time.sleep(6)  # longer than a member that is missed may take to come back
    assert [1, 1, 1] == [len(group.starts(slot)) for slot in range(3)]
    assert group.lost_steps() == 0


def run(group: Group, *, member: tuple[str, ...] = ()) -> None:
    group.start_coordinator()
    group.start(0, 1, 2, member=member)
    group.wait_formed(0, 1, 2)
    group.wait_steps()


def check_outages(group: Group, outages_s: list[float], pauses_s: list[float]) -> None:
    run(group)
    for outage_s in outages_s:
        group.kill_coordinator()
        time.sleep(outage_s)
        group.start_coordinator()
    for pause_s in pauses_s:
        wait_for(lambda: len(group.progress()["nodes"]) == 3, what="all nodes are back")
        group.stop_coordinator_for(pause_s)
    check_undisturbed(group)


def test_a_coordinator_that_is_restarted_or_stopped_for_ten_seconds_stops_nobody(group: Group):
    check_outages(group, [0.0, 3.0], [10.0])


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_outages_of_the_coordinator_one_after_the_other_stop_nobody(group: Group):
    check_outages(group, [0.0, 1.0, 3.0, 8.0] * 5, [2.0, 5.0, 10.0, 15.0] * 5)


def test_a_network_that_is_down_for_a_while_stops_nobody(far_group: Group):
    """Nodes and coordinator hear nothing of each other; connections between workers outlive it."""
    run(far_group)
    for slot in (0, 1, 2):
        far_group.cut(slot)
    time.sleep(8.0)
    assert far_group.progress()["nodes"] == []
    for slot in (0, 1, 2):
        far_group.mend(slot)
    check_undisturbed(far_group)


@pytest.mark.parametrize("how", ["killed", pytest.param("stopped", marks=pytest.mark.soak)])
def test_a_node_that_dies_with_the_coordinator_is_out_once_it_is_back(group: Group, how: str):
    """A killed peer ends the others' workers while nobody can be told; a stopped one leaves them hanging."""
    run(group)
    group.kill_coordinator()
    lost_at = group.kill(0) if how == "killed" else group.signal_node(0, signal.SIGSTOP)
    time.sleep(3.0)
    group.start_coordinator()
    back_at = time.monotonic()

    assert group.wait_formed(1, 2, after=lost_at, within_s=30) - back_at < 12
    group.wait_steps()
    if how == "killed":
        group.start(0)
    else:
        group.signal_node(0, signal.SIGCONT)
    group.wait_formed(0, 1, 2, after=lost_at)
