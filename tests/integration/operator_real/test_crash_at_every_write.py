"""The operator is killed before and after each of its writes: every life ends like the undisturbed one."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control_plane import kubectl
from crashing_proxy import CrashingProxy, Moment
from operator_site import OperatorProcess, Site
from waiting import wait_for

from sam3ft_api import names
from sam3ft_launch.kubernetes import kinds
from sam3ft_operator.rbac import LEASE_NAME

pytestmark = pytest.mark.timeout(3600)
RUN = "blood"
CHECKED = json.dumps({"code": 0, "reason": "Succeeded"})
DONE = json.dumps({"code": 0, "reason": "Succeeded", "step": 10, "checkpoint_step": 10})
REFUSED = json.dumps({"code": 14, "reason": "CheckpointIncompatible", "message": "it belongs to another run"})
SAMPLED = 3
"""Points of each scenario in `make test`; all of them in `make soak`."""


class Life:
    """One resource, its user, its pods, and operators that follow each other."""

    def __init__(self, site: Site, proxy: CrashingProxy, folder: Path) -> None:
        """Let the first operator start."""
        self.site, self.proxy = site, proxy
        site.kubeconfig = proxy.kubeconfig(site.kubeconfig, folder / "proxy.kubeconfig")
        self.operator: OperatorProcess = site.operator()
        self.operator.wait_until_ready()
        proxy.crash = self.crash

    def crash(self) -> None:
        """Kill the operator, let its Lease be over, and start the next one."""
        self.operator.kill()
        lease = (self.site.namespace, "delete", "lease", LEASE_NAME, "--ignore-not-found")
        kubectl(self.site.plane, "-n", *lease)
        self.operator = self.site.operator()

    def begin(self) -> list[dict[str, Any]]:
        """Apply the resource, let the check pass, and return the workers of the first attempt."""
        uid = self.site.apply(RUN, workers={"nodes": 2, "maxNodes": 2})["metadata"]["uid"]
        self.uid = uid
        [check] = self.site.wait_for_pods(uid, role="preflight", count=1)
        self.site.end_pod(check, message=CHECKED)
        return self.workers()

    def workers(self, count: int = 2, attempt: int = 1) -> list[dict[str, Any]]:
        """Return the running workers of an attempt once there are as many."""

        def read() -> list[dict[str, Any]] | None:
            pods = self.site.children(kinds.POD, self.uid, role="worker")
            found = [
                pod
                for pod in pods
                if pod["status"].get("phase") == "Running"
                and pod["metadata"].get("deletionTimestamp") is None
                and pod["metadata"]["labels"][names.LABEL_ATTEMPT] == str(attempt)
            ]
            return found if len(found) == count else None

        return wait_for(f"{count} workers of attempt {attempt}", read, within_s=60)

    def succeed(self, workers: list[dict[str, Any]]) -> None:
        """Let all workers end well, and wait for the end."""
        for worker in workers:
            self.site.end_pod(worker, message=DONE)
        self.site.wait_for_phase(RUN, "Succeeded", within_s=60)

    def end_state(self) -> dict[str, Any]:
        """Return everything that must not depend on a crash, once the operator has nothing left to do."""
        wait_for("the coordinator is gone", lambda: not self.site.children(kinds.POD, self.uid, role="coordinator"))
        status = self.site.resource(RUN)["status"]
        conditions = {it["type"]: (it["status"], it["reason"]) for it in status["conditions"]}
        found = {
            kind.name: sorted(child["metadata"]["name"] for child in self.site.children(kind, self.uid))
            for kind in kinds.CHILDREN.values()
            if kind != kinds.POD
        }
        attempts = [(it["n"], it["reason"], it.get("exitCode")) for it in status["attempts"]]
        return {"phase": status["phase"], "conditions": conditions, "attempts": attempts, "children": found,
                "restarts": status["restarts"]}  # fmt: skip

    def doubles(self) -> dict[str, int]:
        """Return the Jobs that were created more than once, by the audit log."""
        return {name: count for name, count in Counter(self.site.created("jobs")).items() if count > 1}


def success(life: Life) -> None:
    life.succeed(life.begin())


def suspension(life: Life) -> None:
    life.begin()
    life.site.change(RUN, suspend=True)
    life.site.wait_for_phase(RUN, "Suspended", within_s=60)
    life.site.change(RUN, suspend=False)
    life.succeed(life.workers(attempt=2))


def scaling_and_retry(life: Life) -> None:
    workers = life.begin()
    life.site.change(RUN, workers={"nodes": 1})
    workers = life.workers(count=1)
    life.site.end_pod(workers[0], code=14, message=REFUSED)
    life.site.wait_for_phase(RUN, "Failed", within_s=60)
    life.site.change(RUN, retry=1)
    life.succeed(life.workers(count=1, attempt=2))


SCENARIOS: dict[str, Callable[[Life], None]] = {
    "success": success, "suspension": suspension, "scaling and retry": scaling_and_retry,
}  # fmt: skip


def lived(
    new_site: Callable[[], Site], folder: Path, scenario: str, *, crash_at: int = 0, moment: Moment = "before"
) -> tuple[dict[str, Any], int]:
    """Live one life; returns its end state and how many writes it took."""
    with new_site() as site, CrashingProxy(site.plane, crash_at=crash_at, moment=moment) as proxy:
        life = Life(site, proxy, site.folder)
        SCENARIOS[scenario](life)
        state = life.end_state()
        assert {} == life.doubles(), f"{scenario}, {moment} write {crash_at}: {proxy.writes[crash_at - 1]}"
        life.operator.terminate()
        return state, len(proxy.writes)


def compare(new_site: Callable[[], Site], folder: Path, scenario: str, *, points: int | None) -> int:
    """Crash at some points of a scenario, or at all; returns at how many."""
    undisturbed, num_writes = lived(new_site, folder, scenario)
    every: list[tuple[int, Moment]] = [(n, moment) for n in range(1, num_writes + 1) for moment in ("before", "after")]
    chosen = every if points is None else random.sample(every, points)
    for crash_at, moment in chosen:
        state, _ = lived(new_site, folder, scenario, crash_at=crash_at, moment=moment)
        assert undisturbed == state, f"{scenario}, {moment} write {crash_at} of {num_writes}"
    print(f"{scenario}: {num_writes} writes, {len(chosen)} crashes, each ended like the undisturbed life")
    return len(chosen)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_a_write_changes_nothing_about_the_end(
    new_site: Callable[[], Site], tmp_path: Path, scenario: str
) -> None:
    assert SAMPLED == compare(new_site, tmp_path, scenario, points=SAMPLED)


@pytest.mark.soak
def test_a_crash_at_any_write_changes_nothing_about_the_end(new_site: Callable[[], Site], tmp_path: Path) -> None:
    points = sum(compare(new_site, tmp_path, scenario, points=None) for scenario in SCENARIOS)
    print(f"{points} points")
    assert points >= 60
