"""Signs of life of the agents of SLURM sites: the Lease that each renews in the namespace of its runs.

Time is measured on this process's clock alone: an agent is as silent as its Lease has not been seen to change, whatever
the clock of its login node says. A process that has just begun takes every agent for alive.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sam3ft_api import names
from sam3ft_launch.kubernetes.api import METADATA, Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import LEASE
from sam3ft_operator.observed import AgentView

LOOK_S = 15.0
"""Between two looks at one Lease, however many runs ask."""
SHOWN_S = 120.0
"""A site that no run has asked for for so long is no longer shown."""
FORGET_S = 3600.0
"""A site that no run has asked for for so long is forgotten."""


_UNKNOWN = "?"
"""Version of a Lease that could not be read yet: its agent is taken for alive."""


@dataclass(slots=True)
class _Seen:
    looked_s: float
    version: str
    changed_s: float
    asked_s: float


class Agents:
    """What is known of each site's agent; safe for many threads."""

    def __init__(self, api: Api, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is asked.

        Args:
            api: for its requests.
            clock: monotonic seconds.
        """
        self._api, self._clock = api, clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], _Seen] = {}

    def of(self, namespace: str, site: str) -> AgentView | None:
        """Return how a site's agent is; None where it has no Lease. A Lease that cannot be read changes nothing.

        Args:
            namespace: of the runs.
            site: name under which the agent is enrolled.
        """
        now_s, place = self._clock(), (namespace, site)
        with self._lock:
            known = self._seen.get(place)
            if known is not None:
                known.asked_s = now_s
            is_due = known is None or now_s - known.looked_s >= LOOK_S
            if known is not None and is_due:
                known.looked_s = now_s  # others do not ask at the same time
        if is_due:
            self._look(place, now_s)
        with self._lock:
            known = self._seen[place]
            return AgentView(max(0.0, now_s - known.changed_s)) if known.version else None

    def silences(self) -> dict[tuple[str, ...], float]:
        """Return for how many seconds each site's agent had been silent when its Lease was last looked at.

        Of sites that a run has asked for within `SHOWN_S`: nobody looks at the others, so nothing is known of them.
        """
        now_s = self._clock()
        with self._lock:
            return {
                place: max(0.0, seen.looked_s - seen.changed_s)
                for place, seen in self._seen.items()
                if seen.version not in ("", _UNKNOWN) and now_s - seen.asked_s <= SHOWN_S
            }

    def _look(self, place: tuple[str, str], now_s: float) -> None:
        namespace, site = place
        try:
            body = self._api.get(LEASE, namespace, names.agent_name(site), accept=METADATA)
            version = str((body.get("metadata") or {}).get("resourceVersion") or "")
        except ApiProblem as problem:
            if problem.code != 404:
                with self._lock:
                    self._seen.setdefault(place, _Seen(now_s, _UNKNOWN, now_s, now_s))
                return
            version = ""
        with self._lock:
            known = self._seen.get(place)
            if known is None or known.version != version:
                self._seen[place] = _Seen(now_s, version, now_s, now_s)
            for old in [at for at, seen in self._seen.items() if now_s - seen.asked_s > FORGET_S]:
                del self._seen[old]
