"""Ending at a step boundary because the launcher asks: with a commit if there is time for one, else without.

A save that the deadline would cut is worse than none: it takes the bandwidth from the save under way, which can still
become a commit. So each rank holds the time a save would take against the time that is left, and says with the counts
of the next step whether it fits; one rank that cannot is enough for all.
"""

import time

from sam3ft_api.errors import Interrupted, Regroup, Unsaved
from sam3ft_api.worker import FlagKind
from sam3ft_trainer.run.events import Reporter
from sam3ft_trainer.run.flags import seconds_left
from sam3ft_trainer.run.session import Session

MARGIN_S = 1.0
"""Time to end the process after a save, s."""
MARGIN_SHARE = 0.25
"""Share by which a save may last longer than expected."""
SAFE_GRACES = 2.0
"""A grace of fewer saves than this is warned of at the start."""
_PATIENCE_S = 60.0
"""How long a rank without a deadline of its own waits for the save under way, s."""


def fits(save_s: float | None, left_s: float | None) -> bool:
    """Say whether a save can end in time; it can when nothing is known about either.

    Args:
        save_s: expected length of a save that begins now, s; None before anything was measured.
        left_s: until the process is killed, s; None without a deadline.
    """
    return save_s is None or left_s is None or save_s * (1 + MARGIN_SHARE) + MARGIN_S <= left_s


def cannot_save(run: Session) -> bool:
    """Say whether this rank was asked to stop and has not enough time left for a save."""
    return run.flag is not None and not fits(run.store.estimated_save_s(), seconds_left(run.flag))


def stop(run: Session, *, saves: bool) -> None:
    """End at this step boundary, as the launcher asked; all ranks, never returns.

    Args:
        run: stands between two steps.
        saves: what the ranks have agreed on: commit this step, or only finish the save under way.

    Raises:
        Interrupted: this step is committed. Regroup: the same, and the group forms again.
        Unsaved: it is not, and the message says how many steps will be done again.
        Fenced, StorageUnavailable, StorageDenied: as `Session.commit`.
    """
    # Ranks of one node may look a moment before and after the request came; on other nodes there is none.
    run.flag = run.flag or run.flags.poll()
    kind = run.flag.kind if run.flag is not None else FlagKind.REGROUP
    if saves:
        started = time.monotonic()
        if not _is_committed(run):
            run.commit(wait=True)
        run.reporter.event("stopped", step=run.state.step, kind=kind.value, save_s=round(time.monotonic() - started, 3))
    else:
        _finish_running(run, kind)
    if kind is FlagKind.EVICT:
        run.store.forgo_copy()
        raise Interrupted(f"asked to stop; step {run.state.step} is committed")
    raise Regroup(f"the group forms again; step {run.state.step} is committed")


def _is_committed(run: Session) -> bool:
    """Say whether the save at this very boundary has become a commit; waits for it. The same on all ranks.

    Ranks that had to skip that save and ranks that had not differ in what they wait for, not in what they find: a save
    that one rank has skipped is no commit.
    """
    if not run.is_saved():
        return False
    run.store.finish_running(timeout_s=None)
    run.drain_store_events()
    return run.store.newest_step == run.state.step


def _finish_running(run: Session, kind: FlagKind) -> None:
    """Wait for the save under way as long as the deadline allows; returns only if that has committed this step."""
    save_s, left_s = run.store.estimated_save_s(), None if run.flag is None else seconds_left(run.flag)
    run.store.finish_running(timeout_s=_PATIENCE_S if left_s is None else max(0.0, left_s - MARGIN_S))
    run.drain_store_events()
    newest = run.store.newest_step or 0
    lost = run.state.step - newest
    why = unsaved_message(save_s=save_s, left_s=left_s, newest=newest, lost=lost)
    run.reporter.event(
        "stopped_unsaved", step=run.state.step, kind=kind.value, checkpoint_step=newest, steps_lost=lost, message=why
    )
    if lost == 0:
        return
    run.store.forgo_copy()
    if kind is FlagKind.EVICT:
        raise Unsaved(why)
    raise Regroup(f"the group forms again without a member that has no time to save; {why}")


def unsaved_message(*, save_s: float | None, left_s: float | None, newest: int, lost: int) -> str:
    """Return the sentence that says why no save was begun and what that costs."""
    would_end = "too late" if save_s is None else f"in about {save_s:.0f} s"
    time_left = "" if left_s is None else f" and {left_s:.0f} s were left"
    costs = f"step {newest} is committed"
    if lost:
        costs = f"{lost} step{'s' * (lost > 1)} since step {newest} will be done again"
    return f"asked to stop; a save begun now would have ended {would_end}{time_left}, so none was begun; {costs}"


def tell_short_grace(reporter: Reporter, *, grace_s: float | None, save_s: float | None) -> None:
    """Warn at the start of a run whose grace is less than two of the saves that were measured."""
    if grace_s is None or save_s is None or grace_s >= SAFE_GRACES * save_s:
        return
    reporter.event(
        "grace_short",
        grace_s=grace_s,
        save_s=round(save_s, 1),
        message=(
            f"the last save took {save_s:.0f} s, and a run that is asked to stop has {grace_s:.0f} s: give it at least "
            f"{SAFE_GRACES * save_s:.0f} s (workers.terminationGracePeriodSeconds), or more processes to share it"
        ),
    )
