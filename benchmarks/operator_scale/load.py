"""The load: resources made at a rate, followed by watches, their pods ended as users' programs would end."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from benchmarks.operator_scale.site import NAMESPACE, Site

from sam3ft_api import names
from sam3ft_api.spec import API_VERSION, KIND
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import FINETUNE, JOB, POD, Kind

MANAGER = "bench"
HANDS = 4
"""Threads that end pods and give addresses; each request takes milliseconds."""
SAY_EVERY_S = 5.0
STALL_S = 180.0
"""Without any sign of progress for so long the load is given up."""
REFUSED = {"code": 14, "reason": "CheckpointIncompatible", "message": "the store belongs to another run", "rank": 0}
ENDED = frozenset({"Failed", "Succeeded"})
_AGAIN_S = 0.3


@dataclass(slots=True)
class Run:
    """One resource and what the watches have shown of it.

    Attributes:
        name: of the resource.
        must_fail: one of its workers ends with a user's error as soon as all run.
        address: that its coordinator gets; empty leaves the one that nobody answers at.
        uid: of the resource.
        is_checked: its preflight Job is complete.
        ready: workers that run.
        ended_pod: the worker that was told to end with an error.
        phase: of its status.
    """

    name: str
    must_fail: bool = False
    address: str = ""
    uid: str = ""
    is_checked: bool = False
    ready: int = 0
    ended_pod: str = ""
    phase: str = ""


@dataclass(slots=True)
class Batch:
    """Resources that are made together.

    Attributes:
        runs: by name.
        created_s: seconds that making them took.
        begun_s: when the first was made, in seconds since the epoch.
        ended_s: when the last was where it should be.
        trouble: why not all could be made.
    """

    runs: dict[str, Run]
    created_s: float = 0.0
    begun_s: float = 0.0
    ended_s: float = 0.0
    trouble: str = ""

    def is_done(self, *, pods: int) -> bool:
        """Tell whether every run has all its workers, and those that must fail have failed."""
        return all((run.phase in ENDED) if run.must_fail else run.ready >= pods for run in self.runs.values())

    def state(self, *, pods: int) -> tuple[int, ...]:
        """Return how many are made, are checked, have all their workers, and have failed as they must."""
        runs = self.runs.values()
        made, checked = sum(bool(run.uid) for run in runs), sum(run.is_checked for run in runs)
        full = sum(run.ready >= pods or bool(run.ended_pod) for run in runs)
        return made, checked, full, sum(run.must_fail and run.phase in ENDED for run in runs)


def body_of(name: str, *, pods: int, training: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a resource of so many workers with one GPU each."""
    spec = {
        "model": {"uri": "preset:tiny"},
        "data": {"uri": "s3://datasets/blood"},
        "training": {"maxSteps": 100_000, "globalBatchSize": max(2, pods), **(training or {})},
        "checkpoint": {"uri": f"s3://runs/{name}"},
        "workers": {"nodes": pods, "maxNodes": pods, "gpusPerNode": 1},
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def runs_named(prefix: str, count: int, *, failures: int = 0, addresses: Sequence[str] = ()) -> dict[str, Run]:
    """Return runs of which some must fail and some have a coordinator that answers, spread evenly over all."""
    fails, answers = _spread(count, failures, shift=0), _spread(count, len(addresses), shift=1)
    address = iter(addresses)
    found = {}
    for number in range(count):
        name = f"{prefix}-{number:05d}"
        found[name] = Run(name, must_fail=number in fails, address=next(address) if number in answers else "")
    return found


def _spread(count: int, chosen: int, *, shift: int) -> set[int]:
    return {min(count - 1, number * count // chosen + shift) for number in range(chosen)} if chosen else set()


@dataclass(slots=True)
class Driver:
    """Plays the users and what happens in pods; works within its context.

    Attributes:
        site: where.
        pods: workers of each run.
        say: shows a line to whoever waits.
        ended_pods: workers that were told to end with an error, with the name of their run.
    """

    site: Site
    pods: int
    say: Callable[[str], None]
    ended_pods: dict[str, str] = field(default_factory=dict)
    _runs: dict[str, Run] = field(default_factory=dict)
    _jobs: dict[str, Run] = field(default_factory=dict)
    _hand: "queue.Queue[Callable[[], bool]]" = field(default_factory=queue.Queue)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Begin to watch, and to do what is asked for."""
        for kind, take in ((JOB, self._take_job), (FINETUNE, self._take_resource)):
            threading.Thread(target=self._watch, args=(kind, take), name=kind.plural, daemon=True).start()
        for number in range(HANDS):
            threading.Thread(target=self._work, name=f"hand-{number}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask every thread to end; what they wait for ends with the control plane."""
        self._stopping.set()
        for _ in range(HANDS):
            self._hand.put(lambda: True)

    def do(self, name: str, runs: dict[str, Run], *, rate: float) -> Batch:
        """Make runs at a rate and wait until all are where they should be.

        Raises:
            RuntimeError: nothing has gone on for `STALL_S`, or one could not be made.
        """
        batch = Batch(runs, begun_s=time.time())
        self._runs |= runs
        for run in runs.values():
            self._jobs[names.preflight_name(run.name)] = self._jobs[names.worker_job_name(run.name, 1)] = run
        maker = threading.Thread(target=self._make, args=(batch, rate), name="maker", daemon=True)
        maker.start()
        self._follow(name, batch)
        maker.join()
        batch.ended_s = time.time()
        return batch

    def delete(self, batch: Batch) -> None:
        """Delete the resources of a batch and wait until the operator has forgotten them."""
        for name in batch.runs:
            self.site.api.delete(FINETUNE, NAMESPACE, name)
            self._runs.pop(name, None)

    def call_at(self, run: Run, address: str) -> None:
        """Give the coordinator of a run an address as soon as it runs."""
        self._hand.put(lambda: self._set_address(run, address))

    def _make(self, batch: Batch, rate: float) -> None:
        begun_s = time.monotonic()
        for number, run in enumerate(batch.runs.values()):
            if self._stopping.wait(max(0.0, begun_s + number / rate - time.monotonic())):
                return
            try:
                made = self.site.api.create(FINETUNE, NAMESPACE, body_of(run.name, pods=self.pods), manager=MANAGER)
            except ApiProblem as problem:
                batch.trouble = f"{run.name} could not be made: {problem}"
                return
            run.uid = made["metadata"]["uid"]
        batch.created_s = time.monotonic() - begun_s

    def _follow(self, name: str, batch: Batch) -> None:
        state, moved_s, said_s = batch.state(pods=self.pods), time.monotonic(), 0.0
        while not batch.is_done(pods=self.pods):
            time.sleep(0.2)
            now_s = time.monotonic()
            if (new := batch.state(pods=self.pods)) != state:
                state, moved_s = new, now_s
            if now_s - said_s >= SAY_EVERY_S:
                said_s = now_s
                self.say(f"{name}: {_words(batch, state)}")
            if batch.trouble:
                raise RuntimeError(batch.trouble)
            if now_s - moved_s > STALL_S:
                raise RuntimeError(f"{name}: nothing goes on any more: {_words(batch, state)}")
        self.say(f"{name}: {_words(batch, batch.state(pods=self.pods))}, {time.time() - batch.begun_s:.0f} s")

    def _take_job(self, body: Mapping[str, Any]) -> None:
        name = body["metadata"]["name"]
        if (run := self._jobs.get(name)) is None:
            return
        status = body.get("status") or {}
        if name == names.preflight_name(run.name):
            conditions = status.get("conditions") or []
            run.is_checked |= any((it["type"], it["status"]) == ("Complete", "True") for it in conditions)
            return
        was_ready, run.ready = run.ready, max(run.ready, int(status.get("ready") or 0))
        if was_ready == 0 and run.address:
            run.address, address = "", run.address
            self.call_at(run, address)
        if was_ready < self.pods <= run.ready and run.must_fail:
            self._hand.put(lambda: self._fail(run))

    def _take_resource(self, body: Mapping[str, Any]) -> None:
        if (run := self._runs.get(body["metadata"]["name"])) is not None:
            run.phase = (body.get("status") or {}).get("phase") or ""

    def _work(self) -> None:
        while not self._stopping.is_set():
            task = self._hand.get()
            if not self._is_done(task) and not self._stopping.is_set():
                again = threading.Timer(_AGAIN_S, self._hand.put, (task,))
                again.daemon = True
                again.start()

    def _is_done(self, task: Callable[[], bool]) -> bool:
        try:
            return task()
        except ApiProblem:
            return False  # the next try says whether it matters

    def _watch(self, kind: Kind, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Hand every object of a kind on as it changes; a broken watch begins anew with everything."""
        while not self._stopping.is_set():
            try:
                for event in self.site.api.stream(kind, NAMESPACE, {"timeoutSeconds": 3600}, silence_s=120.0):
                    body = event.get("object") or {}
                    if event.get("type") in {"ADDED", "MODIFIED"} and "name" in (body.get("metadata") or {}):
                        take(body)
            except ApiProblem:
                self._stopping.wait(1.0)

    def _fail(self, run: Run) -> bool:
        query = {"labelSelector": f"{names.LABEL_UID}={run.uid},{names.LABEL_ROLE}={names.ROLE_WORKER}"}
        found = self.site.api.list(POD, NAMESPACE, query)["items"]
        pod = next((it["metadata"]["name"] for it in found if it["status"].get("phase") == "Running"), "")
        if not pod:
            return False
        told = {"play.sam3ft.dev/exit-code": "14", "play.sam3ft.dev/message": json.dumps(REFUSED)}
        self.ended_pods[pod], run.ended_pod = run.name, pod
        self.site.api.patch(POD, NAMESPACE, pod, {"metadata": {"annotations": told}}, manager=MANAGER)
        return True

    def _set_address(self, run: Run, address: str) -> bool:
        name = names.coordinator_name(run.name)
        found = self.site.api.get(POD, NAMESPACE, name)
        if (found.get("status") or {}).get("phase") != "Running":
            return False
        body = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
        self.site.api.patch(POD, NAMESPACE, name, body, manager=MANAGER, subresource="status")
        return True


def _words(batch: Batch, state: Iterable[int]) -> str:
    made, checked, full, failed = state
    count, fails = len(batch.runs), sum(run.must_fail for run in batch.runs.values())
    return f"{made:,} of {count:,} made, {checked:,} checked, {full:,} with all workers, {failed} of {fails} failed"
