"""What clusters do to a run, one after another, to one run on three nodes: it succeeds, and no image is used twice.

What each fault has cost is printed with its parts: until a new pod ran, a group was formed, its first step was done.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from control_plane import kubectl
from e2e_site import OPERATORS, Site, phase_of, step_of
from striking import WITHIN_S, Struck
from waiting import wait_for, wait_until

from sam3ft_trainer.data.order import step_of_cursor
from sam3ft_trainer.store.reading import RunReader
from sam3ft_trainer.store.records import ClaimEntry, CommitEntry, CommitMeta
from sam3ft_trainer.store.uri import open_store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
RUN = "struck"
STEPS, BATCH, EVERY = 700, 6, 10


@pytest.fixture(scope="module")
def struck(installed: Site) -> Iterator[Struck]:
    installed.apply(
        RUN,
        steps=STEPS,
        workers={"nodes": 2, "maxNodes": 3, "gpusPerNode": 0, "terminationGracePeriodSeconds": 30},
        training={
            "maxSteps": STEPS,
            "globalBatchSize": BATCH,
            "precision": "fp32",
            "resolution": 224,
            "config": {"runtime": {"threads": 1, "log_every": 1}},
        },
        evaluation={"metric": "bbox_AP50", "baseline": False, "everyEpochs": 100},
        failurePolicy={"maxWithoutProgress": 10},
    )
    installed.wait(
        RUN, "both workers train", lambda run: step_of(run) >= EVERY + 1 and len(installed.pods(RUN, "worker")) == 2
    )
    yield Struck(installed, RUN)
    for node in installed.nodes.nodes:
        node.heal()


def test_the_first_process_of_rank_0_is_killed(struck: Struck) -> None:
    pod = struck.workers()[0]
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")

    def kill() -> float:
        # A signal from within its own PID namespace would not reach the first process.
        words = ("ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container)
        struck.site.node_of(pod).inside(*words)
        return struck.replaced(pod["metadata"]["uid"])

    assert struck.strike("the first process of rank 0 killed", kill).lost_steps <= EVERY


def test_a_worker_is_deleted(struck: Struck) -> None:
    pod = struck.workers()[1]

    def delete() -> float:
        struck.site.in_lab("delete", "pod", pod["metadata"]["name"], "--wait=false")
        return struck.replaced(pod["metadata"]["uid"])

    assert struck.strike("a worker deleted", delete).lost_steps == 0


def test_it_grows_to_three_and_shrinks_to_two(struck: Struck) -> None:
    for replicas in (3, 2):

        def scale(replicas: int = replicas) -> None:
            struck.site.in_lab("scale", "sft", RUN, f"--replicas={replicas}")

        assert struck.strike(f"scaled to {replicas}", scale).lost_steps == 0
        wait_until(lambda replicas=replicas: len(struck.workers()) == replicas, within_s=60)  # type: ignore[misc]


def test_the_coordinator_is_killed(struck: Struck) -> None:
    site, before = struck.site, struck.site.step(RUN)
    (pod,) = site.pods(RUN, "coordinator")
    workers = {it["metadata"]["uid"] for it in struck.workers()}
    site.story(f"the coordinator's pod killed at step {before}")
    begun_s = time.monotonic()
    site.in_lab("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    wait_for(
        "another coordinator",
        lambda: [it for it in site.pods(RUN, "coordinator") if it["metadata"]["uid"] != pod["metadata"]["uid"]],
        within_s=WITHIN_S,
    )
    site.wait(RUN, "it has gone on", lambda run: step_of(run) > before)
    took_s, done = time.monotonic() - begun_s, site.step(RUN) - before
    site.story(f"the coordinator's pod killed: {done} steps in the {took_s:.1f} s until the next one told of them")

    assert workers == {it["metadata"]["uid"] for it in struck.workers()}


def test_the_acting_operator_is_killed(struck: Struck) -> None:
    site = struck.site
    lease = json.loads(kubectl(site.plane, "get", "leases", "-n", OPERATORS, "-o", "json"))["items"]
    holders = {it["spec"].get("holderIdentity", "").split("_")[0] for it in lease}
    acting = [pod for pod in _operators(site) if pod["metadata"]["name"] in holders]
    assert 1 == len(acting), (holders, [it["metadata"]["name"] for it in _operators(site)])
    name = acting[0]["metadata"]["name"]

    def kill() -> None:
        kubectl(site.plane, "delete", "pod", name, "-n", OPERATORS, "--grace-period=0", "--force")

    found = struck.strike("the acting operator killed", kill, regroups=False)
    before = site.step(RUN)
    took_s = site.wait(RUN, "the other operator tells of steps", lambda run: step_of(run) > before + 1)
    site.story(f"the acting operator killed: the other one acts after {took_s:.1f} s at most")

    assert (0, None) == (found.lost_steps, found.group_s)


def _operators(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl(site.plane, "get", "pods", "-n", OPERATORS, "-o", "json"))["items"]
    return found


def test_a_kubelet_stops_and_starts(struck: Struck) -> None:
    node = struck.site.node_of(struck.workers()[1])

    def strike() -> None:
        node.programs["kubelet"].stop(kill=True)
        time.sleep(6)
        node.programs["kubelet"].start()

    found = struck.strike(f"the kubelet of {node.name} stopped for 6 s", strike, regroups=False)
    wait_until(lambda: struck.site.plane.is_ready(node.name), within_s=60)

    assert (0, None) == (found.lost_steps, found.group_s)


def test_the_coordinator_s_node_is_drained(struck: Struck) -> None:
    site = struck.site
    (pod,) = site.pods(RUN, "coordinator")
    node, before = pod["spec"]["nodeName"], site.step(RUN)
    site.story(f"{node} is drained at step {before}; the coordinator is there, with {_on(struck, node)} workers")
    begun_s = time.monotonic()
    kubectl(site.plane, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=110s")
    try:
        site.wait(
            RUN,
            "both workers train elsewhere",
            lambda run: step_of(run) > before + 3 and len(struck.workers()) == 2 and not _on(struck, node),
        )
        site.story(f"the coordinator's node drained: it trains elsewhere after {time.monotonic() - begun_s:.1f} s")
    finally:
        kubectl(site.plane, "uncordon", node)


def _on(struck: Struck, node: str) -> int:
    return sum(pod["spec"]["nodeName"] == node for pod in struck.workers())


def test_a_node_is_cut_off_and_its_ghost_does_no_harm(struck: Struck) -> None:
    site = struck.site
    (coordinator,) = site.pods(RUN, "coordinator")
    pod = next(it for it in struck.workers() if it["spec"]["nodeName"] != coordinator["spec"]["nodeName"])
    node, uid = site.node_of(pod), pod["metadata"]["uid"]

    def cut() -> float:
        node.cut_off()
        return struck.replaced(uid)

    found = struck.strike(f"{node.name} cut off", cut)
    assert found.lost_steps <= EVERY
    node.heal()
    site.story(f"{node.name} has its wire back")
    wait_until(lambda: site.plane.is_ready(node.name), within_s=90)
    gone = lambda: uid not in site.in_lab("get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")  # noqa: E731
    wait_until(gone, within_s=90)
    site.story("the ghost is gone")


def test_it_succeeds_and_its_history_uses_each_image_once(struck: Struck) -> None:
    site = struck.site
    site.wait(RUN, "it is done", lambda run: phase_of(run) == "Succeeded", within_s=1500)
    for what, cost in struck.costs.items():
        site.story(f"{what}: {cost}")

    history = RunReader(open_store(str(site.nodes.folder / "s3" / "runs" / RUN))).history()
    newest = history.commits[-1].meta
    num_images = round(_images(newest) / newest.epoch)
    generation, steps = 0, [0]
    for entry in history.entries:
        if isinstance(entry, ClaimEntry):
            generation = entry.gen
        elif isinstance(entry, CommitEntry):
            assert generation == entry.gen, "whoever was left behind commits nothing"
            # A group may save where it began, to let another node in; none goes back.
            assert steps[-1] <= entry.meta.step, "no step is done again after it was committed"
            steps.append(entry.meta.step)
            assert entry.meta.step == step_of_cursor(_images(entry.meta), num_images, BATCH)
    assert STEPS == steps[-1]
    site.story(f"{len(history.claims)} groups, {len(steps) - 1} commits, each step in one of them")


def _images(meta: CommitMeta) -> int:
    """Return the position in the data order."""
    images = meta.cursor["images"]
    assert isinstance(images, int)
    return images
