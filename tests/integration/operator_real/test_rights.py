"""The operator may do exactly what it does: every right is used in one life or another, and none is missing."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane, kubectl
from coordinator_site import MANAGER, FakeCoordinator, says
from operator_site import OperatorProcess
from queue_site import QueueSite
from rights import granted, refused, used
from waiting import wait_for

from sam3ft_api import names
from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.kubernetes.kinds import Kind
from sam3ft_operator.rbac import RUN_RULES, lease_rules

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def site(kueue_cluster: ControlPlane, tmp_path: Path) -> Iterator[QueueSite]:
    """A namespace with a queue."""
    with QueueSite.fresh(kueue_cluster, tmp_path) as found:
        yield found


def test_no_right_is_there_that_is_not_used_and_none_is_missing(site: QueueSite, operator: OperatorProcess) -> None:
    take_names(site)
    live_to_the_cleanup(site)
    be_suspended_in_a_queue(site)
    lose_a_node(site)
    be_held_for_another_site(site)
    lack_quota_of_the_namespace(site)
    change_while_a_status_is_written(site)
    operator.kill()
    site.operator().wait_until_ready()  # which tells the names that are taken once more
    rules = [*(rule.to_rule() for rule in RUN_RULES), *lease_rules()]
    wait_for("an event is told again", lambda: ("", "events", "patch") in used(site.plane, user=site.user))

    assert set() == granted(rules) - used(site.plane, user=site.user)
    assert set() == refused(site.plane, user=site.user)


def take_names(site: QueueSite) -> None:
    """Objects of somebody else have the names that runs need: each is looked at."""
    closed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "containers": [{"name": "a", "image": "registry.example/a", "securityContext": closed}],
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    taken: list[tuple[Kind, str, str, dict[str, Any]]] = [
        (kinds.CONFIG_MAP, "a", names.config_name("a"), {}),
        (kinds.NETWORK_POLICY, "b", names.policy_name("b", "preflight"), {"spec": {"podSelector": {}}}),
        (kinds.JOB, "c", names.preflight_name("c"), {"spec": {"template": {"spec": pod}, "suspend": True}}),
        (kinds.SERVICE, "d", names.coordinator_name("d"), {"spec": {"ports": [{"port": 80}]}}),
        (kinds.POD, "e", names.coordinator_name("e"), {"spec": pod}),
    ]
    for kind, _, name, parts in taken:
        body = {"apiVersion": kind.group_version, "kind": kind.name, "metadata": {"name": name}, **parts}
        site.api.create(kind, site.namespace, body, manager=MANAGER)
    uids = {run: site.apply(run)["metadata"]["uid"] for _, run, _, _ in taken}
    for run in ("d", "e"):
        site.pass_check(uids[run])
    for _, run, _, _ in taken:
        site.wait_for_events(f"involvedObject.uid={uids[run]},reason=NameTaken")


def live_to_the_cleanup(site: QueueSite) -> None:
    """A run is scaled, succeeds, and everything of it is deleted in time."""
    uid = site.queue("whole", nodes=1, queued=False, ttlSecondsAfterFinished=0)
    site.wait_for_pods(uid, role="worker", count=1)
    site.change("whole", workers={"nodes": 2})
    site.finish("whole", site.wait_for_pods(uid, role="worker", count=2))
    site.wait_until_empty(uid)


def be_suspended_in_a_queue(site: QueueSite) -> None:
    """A run in a queue gives its nodes back."""
    uid = site.queue("queued", nodes=2)
    with FakeCoordinator(says({})) as coordinator:
        site.train(uid, coordinator, nodes=2)
        site.wait_for_phase("queued", "Running")
        site.change("queued", suspend=True)
        site.wait_for_phase("queued", "Suspended")


def lose_a_node(site: QueueSite) -> None:
    """A pod was asked to go and its node does not answer: it is written off."""
    uid = site.queue("lost", nodes=1, queued=False)
    [worker] = site.wait_for_pods(uid, role="worker", count=1)
    name, node = worker["metadata"]["name"], worker["spec"]["nodeName"]
    site.plane.lose_node(node)
    try:
        time.sleep(0.5)  # until the node is really silent
        site.api.delete(kinds.POD, site.namespace, name)
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        status = {"status": {"conditions": [condition]}}
        site.api.patch(kinds.POD, site.namespace, name, status, manager=MANAGER, subresource="status")
        wait_for("it is written off", lambda: (site.get(kinds.POD, name) or worker)["status"]["phase"] == "Failed")
    finally:
        site.plane.return_node(node)


def be_held_for_another_site(site: QueueSite) -> None:
    """A run on SLURM carries a finalizer until it is deleted and has no job."""
    site.apply("far", backend="slurm", slurm={"site": "alps"})
    site.wait_for_condition("far", "BackendReachable", "False", "NoAgent")
    assert [names.FINALIZER_SLURM] == site.resource("far")["metadata"]["finalizers"]
    site.api.delete(kinds.FINETUNE, site.namespace, "far")
    wait_for("it is let go", lambda: site.get(kinds.FINETUNE, "far") is None)


def lack_quota_of_the_namespace(site: QueueSite) -> None:
    """The Job controller cannot make pods, and its events are asked why."""
    quota = {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": {"name": "none"}}
    quota |= {"spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    kubectl(site.plane, "-n", site.namespace, "apply", "--server-side", "-f", "-", stdin=json.dumps(quota))
    wait_for(
        "the quota is in force",
        lambda: "used" in kubectl(site.plane, "-n", site.namespace, "get", "quota", "-o", "yaml"),
    )
    site.queue("poor", nodes=1, queued=False)
    site.wait_for_condition("poor", "Scheduled", "False", "QuotaExceeded")
    kubectl(site.plane, "-n", site.namespace, "delete", "quota", "none")


def change_while_a_status_is_written(site: QueueSite) -> None:
    """Somebody changes a resource again and again, until a status meets a newer version and it is read."""
    stop = threading.Event()

    def change() -> None:
        for number in range(10_000):
            if stop.is_set():
                return
            site.change("whole", activeDeadlineSeconds=100_000 + number)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        wait_for("it is read", lambda: ("sam3ft.dev", "sam3finetunes", "get") in used(site.plane, user=site.user))
    finally:
        stop.set()
        thread.join()
