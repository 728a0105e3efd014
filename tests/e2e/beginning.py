"""Where the time goes from `kubectl apply` to the first step, from what the kubelets have written into the pods."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sam3ft_faults.record import parts_between


def parts_of_beginning(
    check: dict[str, Any], workers: Sequence[dict[str, Any]], *, applied_s: float, stepped_s: float
) -> dict[str, float]:
    """Return seconds by part, in order; they add up to the whole.

    Args:
        check: pod of the check, which has ended; containers' times are whole seconds.
        workers: pods of all workers, which run.
        applied_s: seconds since the epoch.
        stepped_s: when the first step was finished, likewise.
    """
    (ended,) = (it["state"]["terminated"] for it in check["status"]["containerStatuses"])
    running = [it["state"]["running"] for pod in workers for it in pod["status"]["containerStatuses"]]
    marks = {
        "until the check starts": seconds_of(ended["startedAt"]),
        "check": seconds_of(ended["finishedAt"]),
        "until both workers start": max(seconds_of(it["startedAt"]) for it in running),
        "imports, group, first step": stepped_s,
    }
    return parts_between(applied_s, marks)


def seconds_of(time: str) -> float:
    """Return seconds since the epoch of a time as the API server writes it."""
    return datetime.fromisoformat(time).timestamp()
