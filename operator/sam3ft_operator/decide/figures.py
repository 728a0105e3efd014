"""The figures of the status: progress, commit, best score, nodes, and the strings of the columns.

They come from the coordinator, so from whoever can reach it: numbers are bounded by their models, text is cut.
"""

import math
from datetime import datetime
from typing import Any

from sam3ft_api import names
from sam3ft_api.status import (
    BestStatus,
    CheckpointStatus,
    Phase,
    ProgressStatus,
    SummaryStatus,
    WorkersStatus,
    moment,
    progress_status,
)
from sam3ft_api.worker import Progress, step_or_none
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.words import cut, span

_READABLE = 1e6
"""A score beyond is none, and has hundreds of digits."""
NEW_S = 60.0
"""Longest time between two looks at a coordinator that answers."""


def figures(look: Look, phase: Phase) -> dict[str, Any]:
    """Return the changes of the status that tell how far the run is; what is not known now stays as it was."""
    group = look.children.group
    known = look.status.workers.ready if look.status.workers is not None else 0
    ready = (group.ready_nodes if group is not None else known) if phase is Phase.RUNNING else 0
    running = [pod for pod in look.workers if pod.phase == "Running"]
    per_node = max(1, look.spec.workers.gpus_per_node)
    desired = 0 if phase.is_final or phase is Phase.SUSPENDED else look.spec.workers.nodes
    changes: dict[str, Any] = {
        "workers": WorkersStatus(desired=desired, ready=ready, world=ready * per_node),
        "replicas": len(running),
        "selector": f"{names.LABEL_UID}={look.resource.uid},{names.LABEL_ROLE}={names.ROLE_WORKER}",
    }
    # A rank that is only loading has planned no steps: what is known of the run stays.
    if group is not None and group.progress is not None and group.progress.total_steps > 0:
        changes |= _progress(look, group.progress)
    if group is not None and (commit := step_or_none(group.commit_step)) is not None:
        changes |= _checkpoint(look, commit)
    return changes


def summary(look: Look, phase: Phase, message: str, changes: dict[str, Any]) -> SummaryStatus:
    """Return the strings of the columns, from the status as it will be written."""
    progress: ProgressStatus | None = changes.get("progress", look.status.progress)
    best: BestStatus | None = changes.get("best", look.status.best)
    workers: WorkersStatus = changes["workers"]
    has_steps = progress is not None and progress.total_steps > 0
    eta = progress.eta_seconds if progress is not None and phase is Phase.RUNNING else None
    return SummaryStatus(
        step=f"{progress.step}/{progress.total_steps}" if progress is not None and has_steps else "",
        eta=span(eta) if eta is not None else "",
        loss=f"{progress.loss:.4g}" if progress is not None and progress.loss is not None else "",
        ap=f"{best.value:.3f}" if best is not None and abs(best.value) < _READABLE else "",
        nodes=f"{workers.ready}/{workers.desired}" if workers.desired else "",
        message=cut(message, 1024),
    )


def _progress(look: Look, told: Progress) -> dict[str, Any]:
    step = step_or_none(told.step) or 0
    changes: dict[str, Any] = {
        "progress": progress_status(told, last_step_time=_last_step(look, step, told.last_step_unix_s))
    }
    best_step = step_or_none(told.best_step)
    if told.best_metric and told.best_value is not None and best_step is not None:
        changes["best"] = BestStatus(metric=cut(told.best_metric, 64), value=told.best_value, step=best_step)
    return changes


def _checkpoint(look: Look, step: int) -> dict[str, Any]:
    """Return the newest commit; its time is when it was first heard of, which is a few seconds after it was made."""
    known = look.status.checkpoint
    if known is not None and known.step >= step:
        return {}
    return {"checkpoint": CheckpointStatus(step=step, uri=look.spec.checkpoint.uri or "", time=moment(look.now_s))}


def _last_step(look: Look, step: int, told_s: float | None) -> datetime | None:
    """Return when the last step finished: as its node says, but not before its number could be seen here.

    A node's clock may be wrong; the number of a step that is new since the last look is at most `NEW_S` old.
    """
    if told_s is None or not math.isfinite(told_s):
        return None
    known = look.status.progress
    if known is not None and known.step == step and known.last_step_time is not None:
        return known.last_step_time
    return moment(min(max(told_s, look.now_s - NEW_S), look.now_s))
