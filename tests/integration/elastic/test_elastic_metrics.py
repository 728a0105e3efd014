"""A scrape of a real coordinator while real launchers run, are killed and come back."""

import time
import urllib.request
from functools import reduce
from operator import getitem

from elastic_site import Group
from launcher_site import wait_for
from metrics_bench import Samples, scraped

from sam3ft_launch.coordinator.exposition import KEPT_S


def scrape(group: Group) -> Samples:
    url = f"http://127.0.0.1:{group.ports['progress_port']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return scraped(answer.read().decode())


def by_label(found: Samples, name: str) -> dict[str, float]:
    return {labels[0][1]: value for (sample, labels), value in found.items() if sample == name}


def value(group: Group, name: str, **labels: str) -> float:
    return scrape(group).get((name, tuple(labels.items())), 0.0)


def check_agreement(group: Group) -> None:
    """What is scraped lies between what `/progress` says before and after it."""
    before = group.progress()
    time.sleep(KEPT_S)  # an answer to an earlier scrape may be given again until then
    found, after = scrape(group), group.progress()

    def between(name: str, *path: str) -> None:
        first, last = (reduce(getitem, path, view) for view in (before, after))
        assert first <= found[name, ()] <= last, name

    between("sam3ft_group_round", "round")
    between("sam3ft_train_step", "progress", "step")
    between("sam3ft_train_checkpoint_step", "commit_step")
    assert len(before["members"]) == found["sam3ft_group_members", ()]
    assert 1.0 == by_label(found, "sam3ft_group_state")[before["state"]]
    steps = by_label(found, "sam3ft_group_node_step")
    assert {str(node["slot"]) for node in before["nodes"]} == steps.keys()
    for earlier, later in zip(before["nodes"], after["nodes"], strict=True):
        assert earlier["step"] <= steps[str(earlier["slot"])] <= later["step"]
    assert max(by_label(found, "sam3ft_group_node_silence_seconds").values()) < 3


def test_a_run_is_scraped_through_a_death_a_return_and_its_end(group: Group) -> None:
    group.start_coordinator()
    group.start(0, 1, 2, member=("--step-s", "0.05"))
    group.wait_formed(0, 1, 2)
    wait_for(lambda: value(group, "sam3ft_train_steps_total") > 0, what="steps are counted")
    check_agreement(group)
    assert {"first": 1.0} == {k: v for k, v in by_label(scrape(group), "sam3ft_group_rounds_total").items() if v}

    group.wait_formed(0, 2, after=group.kill(1))
    group.start(1, member=("--step-s", "0.05"))
    wait_for(lambda: value(group, "sam3ft_group_rounds_total", cause="join") == 1, what="the node is back")
    group.wait_steps()
    wait_for(lambda: len(group.progress()["nodes"]) == 3, what="all nodes are there")
    check_agreement(group)

    found = scrape(group)
    rounds = by_label(found, "sam3ft_group_rounds_total")
    assert (1.0, 1.0) == (rounds["first"], rounds["lost"])
    assert group.rounds() == sum(rounds.values()) == found["sam3ft_group_start_wait_seconds_count", ()]
    assert 1.0 == by_label(found, "sam3ft_group_departures_total")["closed"]
    assert found["sam3ft_group_joins_total", ()] >= 4
    restarts = {str(node["slot"]): float(node["restarts"]) for node in group.progress()["nodes"]}
    assert restarts == by_label(found, "sam3ft_group_node_restarts_total")
    assert found["process_resident_memory_bytes", ()] < 60 * 2**20
    assert found["sam3ft_train_steps_total", ()] <= len(group.steps())

    (group.store / "fail-1").write_text("11")
    wait_for(lambda: value(group, "sam3ft_group_exit_code") == 11, what="the verdict is shown")
    assert 1.0 == by_label(scrape(group), "sam3ft_group_state")["failed"]
    assert 1.0 == by_label(scrape(group), "sam3ft_group_departures_total")["closed"]
