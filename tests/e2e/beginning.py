"""Where the time goes from `kubectl apply` to the first step: by what the kubelets have written into the pods, and by
what the coordinator says.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from e2e_site import NAMESPACE, Site, step_of
from recovery import Moment, ProgressWatch

from sam3ft_api import names
from sam3ft_faults.record import parts_between


def begin(site: Site, run: str, *, steps: int, **sections: dict[str, Any]) -> dict[str, float]:
    """Apply a run of two nodes, wait until both train, and return seconds by part, see `parts_of_beginning`.

    Args:
        site: where.
        run: its name.
        steps: until it is done.
        sections: of its spec, beside and over those of `Site.apply`.
    """
    site.apply(run, steps=steps, **sections)
    applied_s = time.time()
    with ProgressWatch(site.plane, NAMESPACE, names.coordinator_name(run)) as watch:
        site.wait(run, "both workers train", lambda found: step_of(found) >= 1)
    parts = parts_of_beginning(
        site.ended_check(run), site.pods(run, "worker"), applied_s=applied_s, moments=watch.moments
    )
    told = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items())
    site.story(f"from apply to the first step {sum(parts.values()):.1f} s: {told}")
    return parts


def parts_of_beginning(
    check: dict[str, Any], workers: Sequence[dict[str, Any]], *, applied_s: float, moments: Sequence[Moment]
) -> dict[str, float]:
    """Return seconds by part, in order; they add up to the whole.

    Workers import from when their pods have started; they go on with it while the group is formed, and after that.

    Args:
        check: pod of the check, which has ended; containers' times are whole seconds.
        workers: pods of all workers, which run.
        applied_s: seconds since the epoch.
        moments: of the coordinator, from before the group was formed until after its first step.
    """
    (ended,) = (it["state"]["terminated"] for it in check["status"]["containerStatuses"])
    running = [it["state"]["running"] for pod in workers for it in pod["status"]["containerStatuses"]]
    started_s = max(seconds_of(it["startedAt"]) for it in running)
    formed_s = next((it.at_s for it in moments if len(it.members) == len(workers)), None)
    stepped_s = next((it.stepped_s for it in moments if it.step), None)
    assert formed_s is not None, "nobody has asked the coordinator while the group stood"
    assert stepped_s is not None, "nobody has asked the coordinator after the first step"
    marks = {
        "until the check starts": max(applied_s, seconds_of(ended["startedAt"])),
        "check": seconds_of(ended["finishedAt"]),
        "until all workers' pods start": started_s,
        "until the group is formed": max(started_s, formed_s),
        "until the first step": stepped_s,
    }
    return parts_between(applied_s, marks)


def seconds_of(time: str) -> float:
    """Return seconds since the epoch of a time as the API server writes it."""
    return datetime.fromisoformat(time).timestamp()
