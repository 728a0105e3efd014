"""Which of the replicas acts: a Lease of coordination.k8s.io, taken and kept by its resourceVersion.

Time is measured on this machine's monotonic clock alone: another holder's Lease has run out when it has not changed
for its duration since this process saw it change, whatever the clocks of the two say. A Lease does not fence, so two
replicas may both believe for some seconds that they hold it; every write of the operator is conditional or can be
repeated, so they converge.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sam3ft_api import names
from sam3ft_launch.kubernetes.api import Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import LEASE

_log = logging.getLogger(__name__)

DURATION_S = 15.0
"""A holder that has not renewed for so long is gone."""
RENEW_S = 2.0
"""Between two renewals."""
GIVE_UP_S = 10.0
"""A holder that could not renew for so long acts no more: less than the duration, to end before another begins."""
LEASE_ANSWER_S = 3.0
"""Longest wait for one answer: another try has to fit in before the holder gives up."""
LOOK_S = 2.0
"""Between two looks of a replica that waits."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Which Lease, and who asks.

    Attributes:
        namespace: of the Lease.
        name: of the Lease.
        identity: of this process; no other process ever has it.
    """

    namespace: str
    name: str
    identity: str


class Elector(threading.Thread):
    """Waits for the Lease, then keeps it; one thread."""

    def __init__(
        self,
        api: Api,
        settings: LeaseSettings,
        *,
        gained: Callable[[], None],
        lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            api: for its requests; not the one that bounds the rate of everything else.
            settings: which Lease.
            gained: called once, when the Lease is this process's.
            lost: called once, when it is no more; this process must not act after that.
            clock: monotonic seconds.
        """
        super().__init__(name="lease", daemon=True)
        self._api, self._settings, self._gained, self._lost, self._clock = api, settings, gained, lost, clock
        self._stopping = threading.Event()
        self._seen: tuple[str, float] = ("", clock())
        self._renewed_s: float | None = None
        self.holder: str | None = None
        self._turned_s = clock()

    @property
    def is_leading(self) -> bool:
        """This process holds the Lease."""
        return self._renewed_s is not None

    @property
    def is_known(self) -> bool:
        """The Lease has been read: this process leads, or knows who does."""
        return self.holder is not None

    @property
    def is_overdue(self) -> bool:
        """This process holds the Lease and could not renew it in time, its thread perhaps waiting for an answer."""
        renewed_s = self._renewed_s
        return renewed_s is not None and self._clock() - renewed_s > GIVE_UP_S

    @property
    def is_stuck(self) -> bool:
        """The thread does not come back from a request."""
        return self.ident is not None and self._clock() - self._turned_s > 60.0

    def run(self) -> None:
        """Look, take and renew until stopped or lost."""
        while not self._stopping.is_set():
            self._turned_s = self._clock()
            was_leading = self.is_leading
            wait_s = self.step()
            if self.is_leading and not was_leading:
                self._gained()
            if was_leading and not self.is_leading:
                self._lost()
                return
            self._stopping.wait(wait_s)

    def step(self) -> float:
        """Do one thing and return the seconds until the next."""
        try:
            return self._renew() if self.is_leading else self._look()
        except ApiProblem as problem:
            _log.warning("lease %s: %s", self._settings.name, problem)
            if self.is_overdue:
                _log.error("lease %s could not be renewed for %.0f s; giving up", self._settings.name, GIVE_UP_S)
                self._renewed_s = None
            return 1.0

    def stop(self) -> None:
        """End the thread and give the Lease back, so that another replica need not wait; never raises."""
        self._stopping.set()
        if self.is_overdue:
            return  # the thread may wait for an answer, and there is nothing to give back
        if self.ident is not None and threading.current_thread() is not self:
            self.join(timeout=5.0)
        if not self.is_leading:
            return
        self._renewed_s = None
        try:
            lease = self._read()
            if lease is not None and _holder(lease) == self._settings.identity:
                self._write(lease, holder="", duration_s=1)
        except ApiProblem as problem:
            _log.warning("lease %s could not be given back: %s", self._settings.name, problem)

    def _look(self) -> float:
        """Take the Lease if it is free or has run out."""
        begun_s = self._clock()
        lease = self._read()
        if lease is None:
            self._create()
            self._renewed_s, self.holder = begun_s, self._settings.identity
            return RENEW_S
        version = str((lease.get("metadata") or {}).get("resourceVersion"))
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        self.holder = _holder(lease)
        left_s = self._seen[1] + _duration_s(lease) - self._clock()
        if self.holder and left_s > 0:
            # Never later than the moment at which it runs out; spread, so that two waiting replicas do not collide.
            return min(LOOK_S, left_s) + random.uniform(0.0, 0.2)  # noqa: S311 - no secret
        return self._take(lease, begun_s)

    def _take(self, lease: dict[str, Any], begun_s: float) -> float:
        try:
            self._write(lease, holder=self._settings.identity, duration_s=int(DURATION_S))
        except ApiProblem as problem:
            if problem.code != 409:
                raise
            return 0.2  # another replica was quicker
        self._renewed_s, self.holder = begun_s, self._settings.identity
        return RENEW_S

    def _renew(self) -> float:
        lease = self._read()
        if lease is None or _holder(lease) != self._settings.identity:
            _log.error("lease %s is held by %r now", self._settings.name, _holder(lease or {}))
            self._renewed_s = None
            return 0.0
        # From before the write and not from before the read, which may have waited: others count from the write.
        begun_s = self._clock()
        self._write(lease, holder=self._settings.identity, duration_s=int(DURATION_S))
        self._renewed_s = begun_s
        return RENEW_S

    def _read(self) -> dict[str, Any] | None:
        try:
            return self._api.get(LEASE, self._settings.namespace, self._settings.name)
        except ApiProblem as problem:
            if problem.code == 404:
                return None
            raise

    def _create(self) -> None:
        now = _micro_time()
        body = {
            "apiVersion": LEASE.group_version,
            "kind": LEASE.name,
            "metadata": {"name": self._settings.name, "namespace": self._settings.namespace},
            "spec": {
                "holderIdentity": self._settings.identity,
                "leaseDurationSeconds": int(DURATION_S),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }
        self._api.create(LEASE, self._settings.namespace, body, manager=names.FIELD_MANAGER_OPERATOR)

    def _write(self, lease: dict[str, Any], *, holder: str, duration_s: int) -> None:
        """Replace the Lease as it was read; 409 when it has changed since."""
        now = _micro_time()
        before = lease.get("spec") or {}
        spec = {**before, "holderIdentity": holder, "leaseDurationSeconds": duration_s, "renewTime": now}
        if holder and holder != before.get("holderIdentity"):
            spec |= {"acquireTime": now, "leaseTransitions": int(before.get("leaseTransitions") or 0) + 1}
        metadata = {key: value for key, value in lease["metadata"].items() if key != "managedFields"}
        body = {**lease, "metadata": metadata, "spec": spec}
        name, manager = self._settings.name, names.FIELD_MANAGER_OPERATOR
        self._api.replace(LEASE, self._settings.namespace, name, body, manager=manager)


def _holder(lease: dict[str, Any]) -> str:
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


def _duration_s(lease: dict[str, Any]) -> float:
    """Return how long a Lease lasts by its own word, bounded: whoever wrote a year does not block the others."""
    duration = (lease.get("spec") or {}).get("leaseDurationSeconds")
    return min(float(duration), 60.0) if isinstance(duration, int) and duration > 0 else DURATION_S


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
