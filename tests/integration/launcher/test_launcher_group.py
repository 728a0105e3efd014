"""Two launchers on one machine form one group."""

import os
import signal
import time

from launcher_site import Site, wait_for

from sam3ft_api.exit_codes import ExitCode


def test_a_silent_node_is_replaced_by_a_smaller_group_and_comes_back_when_it_wakes(site: Site):
    site.start_coordinator("--nodes", "2", "--min-nodes", "1")
    first = site.start_node("until-flag", "until-flag", "result=0", slot=0)
    second = site.start_node("until-flag", "sleep=200", slot=1)
    pids = [second.process.pid, second.wait_for_starts(1)[0]["pid"]]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    silent_at = time.time()

    alone = first.wait_for_starts(2)[1]
    assert alone["WORLD_SIZE"] == "1"
    assert alone["at"] - silent_at < 20  # 3 s on an idle machine
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert first.wait() == 0
    assert second.wait() == 0
    assert [start["WORLD_SIZE"] for start in first.starts()] == ["2", "1", "2"]


def test_an_evicted_node_leaves_with_20_and_the_other_goes_on_alone(site: Site):
    site.start_coordinator("--nodes", "2", "--min-nodes", "1")
    first = site.start_node("until-flag", slot=0)
    second = site.start_node("until-flag", "result=0", slot=1)
    second.wait_for_starts(1)
    first.signal(signal.SIGTERM)

    assert first.wait() == ExitCode.INTERRUPTED
    assert second.wait() == 0
    assert [(start["RANK"], start["WORLD_SIZE"]) for start in second.starts()] == [("1", "2"), ("0", "1")]
    wait_for(lambda: site.progress()["state"] == "complete")


def test_a_node_that_fails_for_good_leaves_and_the_other_goes_on_alone(site: Site):
    site.start_coordinator("--nodes", "2", "--min-nodes", "1")
    first = site.start_node("until-flag", "result=0", slot=0)
    bad = site.start_node("result=1", arguments=("--max-restarts", "0", "--min-nodes", "1"), slot=1)

    assert bad.wait() == ExitCode.INTERNAL_ERROR
    assert first.wait() == 0
    assert [start["WORLD_SIZE"] for start in first.starts()] == ["2", "1"]
    word = bad.termination()
    assert ("node-1", 1) == (word.node, word.rank)
    assert "The others go on without this node" in word.message
    wait_for(lambda: site.progress()["state"] == "complete")
