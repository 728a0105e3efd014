"""The figures of the status: progress, commit, best score, nodes, and the strings of the columns.

They come from the coordinator, so from whoever can reach it: numbers are bounded by their models, text is cut.
"""

from typing import Any

from sam3ft_api import names
from sam3ft_api.status import BestStatus, CheckpointStatus, Phase, ProgressStatus, SummaryStatus, WorkersStatus
from sam3ft_api.worker import Progress
from sam3ft_operator.decide.budget import moment
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.words import cut, span


def figures(look: Look, phase: Phase) -> dict[str, Any]:
    """Return the changes of the status that tell how far the run is; what is not known now stays as it was."""
    group = look.children.group
    ready = group.ready_nodes if group is not None and phase is Phase.RUNNING else 0
    running = [pod for pod in look.workers if pod.phase == "Running"]
    per_node = max(1, look.spec.workers.gpus_per_node)
    desired = 0 if phase.is_final or phase is Phase.SUSPENDED else look.spec.workers.nodes
    changes: dict[str, Any] = {
        "workers": WorkersStatus(desired=desired, ready=ready, world=ready * per_node),
        "replicas": len(running),
        "selector": f"{names.LABEL_UID}={look.resource.uid},{names.LABEL_ROLE}={names.ROLE_WORKER}",
    }
    if group is not None and group.progress is not None:
        changes |= _progress(look, group.progress)
    if group is not None and group.commit_step is not None:
        changes |= _checkpoint(look, group.commit_step)
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
        ap=f"{best.value:.3f}" if best is not None else "",
        nodes=f"{workers.ready}/{workers.desired}" if workers.desired else "",
        message=cut(message, 1024),
    )


def _progress(look: Look, told: Progress) -> dict[str, Any]:
    step, total = max(0, told.step), max(0, told.total_steps)
    changes: dict[str, Any] = {
        "progress": ProgressStatus(
            step=step,
            total_steps=total,
            epoch=max(0.0, told.epoch),
            ratio=min(1.0, step / total) if total else 0.0,
            eta_seconds=max(0.0, told.eta_s) if told.eta_s is not None else None,
            images_per_second=max(0.0, told.images_per_s) if told.images_per_s is not None else None,
            loss=told.loss,
            last_step_time=_moment_or_none(told.last_step_unix_s, look.now_s),
        )
    }
    if told.best_metric and told.best_value is not None and told.best_step is not None:
        metric = cut(told.best_metric, 64)
        changes["best"] = BestStatus(metric=metric, value=told.best_value, step=max(0, told.best_step))
    return changes


def _checkpoint(look: Look, step: int) -> dict[str, Any]:
    """Return the newest commit; its time is when it was first heard of, which is a few seconds after it was made."""
    known = look.status.checkpoint
    if known is not None and known.step >= step:
        return {}
    return {"checkpoint": CheckpointStatus(step=step, uri=look.spec.checkpoint.uri or "", time=moment(look.now_s))}


def _moment_or_none(unix_s: float | None, now_s: float) -> Any:
    """Return a time that a pod has told, if it can be one: not in the future, not before computers."""
    if unix_s is None or not 0 < unix_s <= now_s + 60:
        return None
    return moment(unix_s)
