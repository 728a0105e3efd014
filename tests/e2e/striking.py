"""Faults that strike a run which trains, and what each has cost."""

import time
from collections.abc import Callable
from typing import Any

from beginning import seconds_of
from e2e_site import NAMESPACE, Site, phase_of
from recovery import ProgressWatch, Recovery, recovery_of
from waiting import wait_for, wait_until

from sam3ft_api import names

WITHIN_S = 180
_PAUSE_S = 0.5
"""Between two questions to the API server: kubectl costs the cores that the run needs."""
Act = Callable[[], float | None]
"""Strikes, and returns when a pod that replaces another one ran, in seconds since the epoch; None without one."""


class Struck:
    """A run, and what each fault has cost it."""

    def __init__(self, site: Site, run: str) -> None:
        """Remember the cluster and the run's name."""
        self.site, self.run, self.costs = site, run, dict[str, Recovery]()

    def watch(self) -> ProgressWatch:
        """Return what asks the run's coordinator, as soon as there is one."""
        return ProgressWatch(self.site.plane, NAMESPACE, names.coordinator_name(self.run))

    def workers(self) -> list[dict[str, Any]]:
        """Return the running workers, by index."""
        return self.site.pods(self.run, "worker")

    def strike(self, what: str, act: Act, *, regroups: bool = True) -> Recovery:
        """Let something happen to a run that trains, and wait until it trains as before, in a new group or the old."""
        site = self.site
        with self.watch() as watch:
            wait_until(lambda: len({it.step for it in watch.moments} - {0}) > 2, within_s=WITHIN_S)
            fault_s = time.time()
            site.story(f"{what}, at step {watch.moments[-1].step}")
            pod_running_s = act()

            def cost() -> Recovery | None:
                time.sleep(_PAUSE_S)
                assert phase_of(site.run(self.run)) != "Failed", site.tell(self.run)
                return recovery_of(watch.moments, fault_s=fault_s, pod_running_s=pod_running_s, regroups=regroups)

            found: Recovery = wait_for(f"a step after: {what}", cost, within_s=WITHIN_S)
        self.costs[what] = found
        site.story(f"{what}: {found}")
        return found

    def replaced(self, uid: str) -> float:
        """Wait until all wanted workers run without this one, and return when the newest of them began."""

        def others() -> list[dict[str, Any]]:
            time.sleep(_PAUSE_S)
            found = [pod for pod in self.workers() if pod["metadata"]["uid"] != uid]
            return found if len(found) == 2 else []

        pods: list[dict[str, Any]] = wait_for("a replacement", others, within_s=WITHIN_S)
        return max(seconds_of(pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]) for pod in pods)
