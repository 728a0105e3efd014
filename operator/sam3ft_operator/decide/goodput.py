"""How much of the time went into steps that were kept, and where the rest went.

Time is divided by phase as it passes: the seconds between two looks belong to the phase that the status had. Running
time is good but for the steps that an attempt lost, which are taken from it at the present speed.
"""

from sam3ft_api.status import GoodputStatus, Phase, SAM3FineTuneStatus, moment

CAUSES = {
    Phase.CHECKING: "check",
    Phase.QUEUED: "queue",
    Phase.STARTING: "start",
    Phase.RESTARTING: "restart",
    Phase.CHECKPOINTING: "suspend",
}
"""Names of lost seconds by the phase in which they passed; waiting before the check and pauses are nobody's loss."""
LEAST_S = 10.0
"""Goodput is brought up to date at most this often, so that it alone is no reason to write."""


def goodput(
    status: SAM3FineTuneStatus, after: Phase, *, lost_steps: int, step_s: float | None, now_s: float
) -> GoodputStatus:
    """Return the account after one look.

    Args:
        status: as it was read.
        after: phase that the look found.
        lost_steps: steps of an attempt that ends with this look, to be done again.
        step_s: seconds of a step; None when nothing is known, and then lost steps cost nothing.
        now_s: seconds since the epoch.
    """
    before = status.goodput or GoodputStatus(since=moment(now_s))
    if status.phase is not None and status.phase.is_final and after is status.phase:
        return before
    if before.since is None or status.phase is None:
        return before.model_copy(update={"since": moment(now_s)})
    passed_s = max(0.0, int(now_s) - before.since.timestamp())
    if passed_s < LEAST_S and status.phase is after and not lost_steps:
        return before
    lost = dict(before.lost_seconds)
    good_s = before.good_seconds
    if status.phase is Phase.RUNNING:
        redone_s = min(good_s + passed_s, lost_steps * (step_s or 0.0))
        good_s += passed_s - redone_s
        if redone_s:
            lost["lost steps"] = round(lost.get("lost steps", 0.0) + redone_s, 1)
    elif status.phase in CAUSES:
        cause = CAUSES[status.phase]
        lost[cause] = round(lost.get(cause, 0.0) + passed_s, 1)
    all_s = good_s + sum(lost.values())
    ratio = round(good_s / all_s, 3) if all_s else 0.0
    return GoodputStatus(ratio=min(1.0, ratio), good_seconds=round(good_s, 1), lost_seconds=lost, since=moment(now_s))
