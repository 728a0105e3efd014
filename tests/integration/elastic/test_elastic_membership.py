"""Who belongs to a group of several nodes, and how they all end."""

import signal
import time

import pytest
from elastic_site import Group, need_faketime
from launcher_site import wait_for

from sam3ft_api.exit_codes import ExitCode


def test_below_min_nodes_the_survivor_waits_and_goes_on_when_a_node_joins(group: Group):
    group.start_coordinator(min_nodes=2)
    group.start(0, 1, 2)
    group.wait_formed(0, 1, 2)
    killed_at = group.kill(1)
    group.wait_formed(0, 2, after=killed_at)
    killed_at = group.kill(2)
    wait_for(lambda: group.progress()["nodes"][0]["state"] == "ready", what="the survivor is ready")
    time.sleep(1.5)
    assert group.workers(0) == []
    assert group.progress()["state"] == "stopping"

    group.start(1)

    group.wait_formed(0, 1, after=killed_at)
    group.wait_steps()


def test_an_error_of_the_user_s_in_one_worker_ends_every_launcher_with_its_code(group: Group):
    group.start_coordinator("--max-nodes", "4")
    group.start(0, 1, 2, processes=2)
    group.wait_formed(0, 1, 2, processes=2)
    (group.store / "fail-3").write_text("11")

    assert [ExitCode.INVALID_DATASET] * 3 == group.codes(0, 1, 2)
    assert [(3, "node-1")] * 3 == [(node.termination().rank, node.termination().node) for node in group.nodes.values()]
    group.start(3)
    assert [ExitCode.INVALID_DATASET] == group.codes(3)
    assert group.starts(3) == []


def check_staggered(group: Group, gap_s: float) -> None:
    group.start_coordinator()
    for slot in (2, 0, 1):
        group.start(slot)
        time.sleep(gap_s)
    group.wait_formed(0, 1, 2)
    group.wait_steps()

    assert [1, 1, 1] == [len(group.starts(slot)) for slot in range(3)]
    assert group.rounds() == 1


def test_nodes_that_start_apart_cause_one_start(group: Group):
    check_staggered(group, 2.0)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_nodes_that_start_a_minute_apart_cause_one_start(group: Group):
    check_staggered(group, 60.0)


def test_an_evicted_node_saves_and_leaves_with_20_and_the_others_lose_no_step(group: Group):
    group.start_coordinator()
    group.start(0, 1, 2)
    group.wait_formed(0, 1, 2)
    group.wait_steps()
    evicted_at = time.monotonic()
    group.nodes[0].signal(signal.SIGTERM)

    assert [ExitCode.INTERRUPTED] == group.codes(0)
    assert group.nodes[0].termination().checkpoint_step > 0
    group.wait_formed(1, 2, after=evicted_at)
    group.wait_steps()
    assert group.lost_steps() == 0
    assert [None, None] == [group.nodes[slot].process.poll() for slot in (1, 2)]


@pytest.mark.parametrize("last", [0, 2])
def test_nodes_whose_workers_end_apart_all_end_with_0(group: Group, last: int):
    group.start_coordinator()
    group.start(0, 1, 2, member=("--steps", "20", "--linger", f"{last}:1.5"))

    assert [0, 0, 0] == group.codes()
    assert ["Succeeded"] * 3 == [node.termination().reason for node in group.nodes.values()]
    assert group.progress()["state"] == "complete"
    assert list(range(1, 21)) == group.steps()


def skewed(seconds: float) -> dict[str, str]:
    """Environment of a node whose wall clock is off; monotonic clocks stay."""
    library = need_faketime()
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+g}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def test_clocks_that_are_ten_seconds_apart_cause_no_flapping(group: Group):
    group.start_coordinator()
    for slot, off_s in ((0, 10.0), (1, -10.0), (2, 0.0)):
        group.start(slot, env=skewed(off_s))
    group.wait_formed(0, 1, 2)
    time.sleep(6)

    assert group.rounds() == 1
    ahead, behind = group.starts(0)[0], group.starts(1)[0]
    assert ahead["unix"] - behind["unix"] > 19 + ahead["at"] - behind["at"]
    killed_at = group.kill(2)
    group.wait_formed(0, 1, after=killed_at, within_s=10)
    group.start(2, env=skewed(-10.0))
    group.wait_formed(0, 1, 2, after=killed_at)
    assert group.rounds() == 3
    wait_for(lambda: (group.progress()["progress"] or {}).get("step", 0) > 0, what="the progress of a skewed node")
