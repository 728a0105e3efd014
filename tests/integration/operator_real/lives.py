"""Lives of a run on a real API server: its user, its pods, and what must be the same at the end whatever happened."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from operator_site import TWO_NODES, OperatorProcess, Site, conditions
from waiting import wait_for

from sam3ft_api import names
from sam3ft_launch.kubernetes import kinds

RUN = "blood"
REFUSED = json.dumps({"code": 14, "reason": "CheckpointIncompatible", "message": "it belongs to another run"})
CHECK_IS_OLD_S = 8.0
"""A check that is older when its run is tried again is made again for certain; a younger one may count."""


class Life:
    """One resource, its user and its pods; whoever acts for them runs beside it."""

    def __init__(self, site: Site) -> None:
        """Prepare; nothing is applied."""
        self.site, self.uid = site, ""
        self._checked_s = 0.0

    def begin(self) -> list[dict[str, Any]]:
        """Apply the resource, let the check pass, and return the workers of the first attempt."""
        self.apply()
        self.check()
        return self.workers()

    def apply(self) -> None:
        """Apply the resource."""
        self.uid = self.site.apply(RUN, workers=TWO_NODES)["metadata"]["uid"]

    def check(self) -> None:
        """Let the check pass."""
        self.site.pass_check(self.uid)
        self._checked_s = time.monotonic()

    def retry(self) -> None:
        """Try a run again that has failed, and let its new check pass."""
        time.sleep(max(0.0, self._checked_s + CHECK_IS_OLD_S - time.monotonic()))
        self.site.change(RUN, retry=1)
        self.check()

    def workers(self, count: int = 2, attempt: int = 1) -> list[dict[str, Any]]:
        """Return the running workers of an attempt once there are as many."""
        return self.site.wait_for_workers(self.uid, attempt, count=count)

    def becomes(self, phase: str) -> None:
        """Wait until the resource is in a phase."""
        self.site.wait_for_phase(RUN, phase, within_s=60)

    def succeed(self, workers: list[dict[str, Any]]) -> None:
        """Let all workers end well, and wait for the end."""
        self.site.finish(RUN, workers, within_s=60)

    def end_state(self) -> dict[str, Any]:
        """Return everything that must not depend on faults, once the operator has nothing left to do."""
        if self.site.get(kinds.FINETUNE, RUN) is None:
            return self._nothing_left()
        wait_for(
            "the coordinator is gone",
            lambda: not self.site.children(kinds.POD, self.uid, role="coordinator"),
            within_s=30 * self.site.patience,
        )
        run = self.site.resource(RUN)
        status = run["status"]
        said = {type_: (it["status"], it["reason"]) for type_, it in conditions(run).items()}
        found = {
            kind.name: sorted(child["metadata"]["name"] for child in self.site.children(kind, self.uid))
            for kind in kinds.CHILDREN.values()
            if kind != kinds.POD
        }
        attempts = [(it["n"], it["reason"], it.get("exitCode")) for it in status["attempts"]]
        return {"phase": status["phase"], "conditions": said, "attempts": attempts, "children": found,
                "restarts": status["restarts"]}  # fmt: skip

    def _nothing_left(self) -> dict[str, Any]:
        """Return the end state of a run that was deleted; the garbage collector takes what is left of it."""
        self.site.wait_until_empty(self.uid, within_s=60)
        time.sleep(2.0)  # what would be made again is there by then
        left = [kind.name for kind in kinds.CHILDREN.values() if self.site.children(kind, self.uid)]
        return {"phase": "deleted", "children": left}

    def doubles(self) -> dict[str, int]:
        """Return the Jobs of attempts that were created more than once, by the audit log."""
        check = names.preflight_name(RUN)
        made = Counter(self.site.created("jobs"))
        return {name: count for name, count in made.items() if count > 1 and name != check}

    def created(self) -> Counter[tuple[str, str]]:
        """Return how often the operators have created each object, by the audit log, the coordinator's pod apart.

        It waits for the one before it to be gone, and its Job does not: an attempt that is over soon may have had none.
        """
        plurals = [kind.plural for kind in kinds.CHILDREN.values()]
        found = Counter((plural, name) for plural in plurals for name in self.site.created(plural))
        coordinators = found.pop(("pods", names.coordinator_name(RUN)), 0)
        if (run := self.site.get(kinds.FINETUNE, RUN)) is not None:
            assert coordinators <= len(run["status"]["attempts"])
        return found


def success(life: Life) -> None:
    """Let a run go well."""
    life.succeed(life.begin())


def suspension(life: Life) -> None:
    """Suspend a run and let it go on."""
    life.begin()
    life.site.change(RUN, suspend=True)
    life.becomes("Suspended")
    life.site.change(RUN, suspend=False)
    life.succeed(life.workers(attempt=2))


def scaling_and_retry(life: Life) -> None:
    """Make a run smaller, let it fail, and try it again."""
    life.begin()
    _scale_fail_and_retry(life, attempt=1)


def restart(life: Life) -> None:
    """Let a worker die, and its follower go on."""
    workers = life.begin()
    life.site.tell(workers[0], exit_code="137", reason="OOMKilled")
    dead = workers[0]["metadata"]["uid"]

    def followed() -> bool:
        return all(pod["metadata"]["uid"] != dead for pod in life.workers())

    wait_for("another worker runs", followed, within_s=60 * life.site.patience)
    life.succeed(life.workers())


def deletion(life: Life) -> None:
    """Delete a run while it trains."""
    life.begin()
    life.site.api.delete(kinds.FINETUNE, life.site.namespace, RUN)


def everything(life: Life) -> None:
    """Suspend a run, let it go on, make it smaller, let it fail, and try it again."""
    life.begin()
    life.site.change(RUN, suspend=True)
    life.becomes("Suspended")
    life.site.change(RUN, suspend=False)
    life.workers(attempt=2)
    _scale_fail_and_retry(life, attempt=2)


def _scale_fail_and_retry(life: Life, *, attempt: int) -> None:
    life.site.change(RUN, workers={"nodes": 1})
    [worker] = life.workers(count=1, attempt=attempt)
    life.site.end_pod(worker, code=14, message=REFUSED)
    life.becomes("Failed")
    life.retry()
    life.succeed(life.workers(count=1, attempt=attempt + 1))


SCENARIOS: dict[str, Callable[[Life], None]] = {
    "success": success, "suspension": suspension, "scaling and retry": scaling_and_retry,
    "restart": restart, "deletion": deletion,
}  # fmt: skip


class Deployment:
    """An operator that is started again whenever it has ended, and asked every second whether it lives.

    Attributes:
        operator: that runs, or has just ended.
        exits: exit codes of those that ended by themselves.
        unhealthy: what /healthz said when it was not 200.
    """

    def __init__(self, site: Site, *arguments: str) -> None:
        """Start the first operator; it is not waited for."""
        self._site, self._arguments = site, arguments
        self.operator: OperatorProcess = site.operator(*arguments)
        self.exits: list[int] = []
        self.unhealthy: list[str] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        """Begin to look after it."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the operator."""
        self._ending.set()
        self._thread.join()
        self.operator.kill()

    def wait_until_ready(self) -> None:
        """Wait until /readyz says so."""
        within_s = 40 * self._site.patience
        wait_for("the operator is ready", lambda: self.operator.get("/readyz")[0] == 200, within_s=within_s)

    def _keep(self) -> None:
        while not self._ending.wait(1.0):
            if (code := self.operator.ended_with()) is not None:
                self.exits.append(code)
                self.operator = self._site.operator(*self._arguments)
            status, words = self.operator.get("/healthz")
            if status not in (0, 200):  # 0: it has not opened its port yet
                self.unhealthy.append(words)
