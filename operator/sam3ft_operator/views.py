"""Objects of the API as slim values; pure, and without an exception whatever an object holds.

What a pod says of itself (its termination message, its reasons) was written by whoever runs there: it is validated or
bounded, and control characters never come through.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from sam3ft_api import limits, names
from sam3ft_api.problems import find_problems
from sam3ft_api.redact import redact
from sam3ft_api.spec import SAM3FineTuneSpec
from sam3ft_api.status import readable_status
from sam3ft_api.termination import Termination
from sam3ft_api.text import without_controls
from sam3ft_launch.kubernetes.kinds import JOB, POD, Kind
from sam3ft_launch.kubernetes.objects.job import QUEUE_LABEL
from sam3ft_operator.observed import JobView, PodView, Resource
from sam3ft_operator.store import Child, Place, version_of

Body = Mapping[str, Any]

MAX_WORD_CHARS = 128
"""Characters kept of a reason."""
MAX_SENTENCE_CHARS = 1024
"""Characters kept of a message of the kubelet or the scheduler."""
MAX_PROBLEMS = 20
"""Problems of a spec that are listed; the rest is counted."""

_TAINTED = "DeletionByTaintManager"


def clean(value: object, *, max_chars: int = MAX_SENTENCE_CHARS) -> str:
    """Return text for people: redacted, without control characters other than tab and newline, at most so long."""
    if not isinstance(value, str):
        return ""
    # Cut before the patterns run, so that a long text costs little, and after, because a mask can be longer.
    return redact(without_controls(value[: 2 * max_chars], instead=" "))[:max_chars].strip()


def epoch_s(value: object) -> float | None:
    """Return a time of the API as seconds since the epoch; None for what is none."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError, OSError):
        return None


def child_of(kind: Kind, body: Body) -> tuple[Place, Child] | None:
    """Return where a child is and what is kept of it; None for an object that no run owns.

    The uid of the run stands in a label, which anybody may write; the owner reference must agree with it for everything
    but the pods of a Job, whose owner is the Job.
    """
    metadata = _map(body.get("metadata"))
    place = place_of(body)
    run = _text(_map(metadata.get("labels")).get(names.LABEL_UID))
    owners = [
        (_text(_map(owner).get("kind")), _text(_map(owner).get("uid"))) for owner in _list(metadata, "ownerReferences")
    ]
    if not run or not all(place) or not _is_owned(kind, run, owners):
        return None
    view = job_view(body) if kind == JOB else pod_view(body) if kind == POD else None
    return place, Child(run, version_of(body), view)


def place_of(body: Body) -> Place:
    """Return where an object is; empty texts for what it does not say."""
    metadata = _map(body.get("metadata"))
    return _text(metadata.get("namespace")), _text(metadata.get("name"))


def _is_owned(kind: Kind, run: str, owners: list[tuple[str, str]]) -> bool:
    if any(uid == run for _, uid in owners):
        return True
    return kind == POD and any(name == JOB.name for name, _ in owners)


def job_view(body: Body) -> JobView:
    """Return what is kept of a Job."""
    metadata, spec, status = (_map(body.get(part)) for part in ("metadata", "spec", "status"))
    labels = _map(metadata.get("labels"))
    conditions = _conditions(status)
    complete, failed = conditions.get("Complete", {}), conditions.get("Failed", {})
    is_complete, has_failed = complete.get("status") == "True", failed.get("status") == "True"
    finished = status.get("completionTime") or (complete if is_complete else failed).get("lastTransitionTime")
    return JobView(
        name=_text(metadata.get("name")),
        uid=_text(metadata.get("uid")),
        role=_text(labels.get(names.LABEL_ROLE)),
        attempt=_number(labels.get(names.LABEL_ATTEMPT), largest=limits.MAX_ATTEMPT),
        created_s=epoch_s(metadata.get("creationTimestamp")) or 0.0,
        parallelism=_number(spec.get("parallelism"), default=1),
        completions=_number(spec.get("completions"), default=1),
        is_suspended=spec.get("suspend") is True,
        active=_number(status.get("active")),
        succeeded=_number(status.get("succeeded")),
        failed=_number(status.get("failed")),
        is_complete=is_complete,
        failure_reason=(_text(failed.get("reason")) or "Failed") if has_failed else "",
        failure_message=clean(failed.get("message")) if has_failed else "",
        finished_s=epoch_s(finished) if is_complete or has_failed else None,
        is_deleted=metadata.get("deletionTimestamp") is not None,
        queue=_text(labels.get(QUEUE_LABEL)),
    )


def pod_view(body: Body) -> PodView:
    """Return what is kept of a pod; its main container is the first one."""
    metadata, spec, status = (_map(body.get(part)) for part in ("metadata", "spec", "status"))
    labels = _map(metadata.get("labels"))
    conditions = _conditions(status)
    scheduled = conditions.get("PodScheduled", {})
    disrupted = conditions.get("DisruptionTarget", {})
    is_disrupted = disrupted.get("status") == "True"
    deletion_s = epoch_s(metadata.get("deletionTimestamp"))
    phase = _text(status.get("phase")) or "Pending"
    container = _container(status)
    ended = _map(container.get("terminated"))
    waiting = _map(container.get("waiting"))
    reason = _text(ended.get("reason")) or _text(status.get("reason"))
    has_node = bool(_text(spec.get("nodeName")))
    return PodView(
        name=_text(metadata.get("name")),
        uid=_text(metadata.get("uid")),
        role=_text(labels.get(names.LABEL_ROLE)),
        attempt=_number(labels.get(names.LABEL_ATTEMPT), largest=limits.MAX_ATTEMPT),
        index=_index(labels, _map(metadata.get("annotations"))),
        phase=phase,
        node=_text(spec.get("nodeName"), max_chars=253),
        address=_text(status.get("podIP")),
        created_s=epoch_s(metadata.get("creationTimestamp")) or 0.0,
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        # The API's deletionTimestamp is the request plus the grace already.
        deletion_s=deletion_s,
        is_disrupted=is_disrupted,
        is_node_lost=_is_node_lost(phase, deletion_s, disrupted, status),
        unschedulable="" if has_node or scheduled.get("status") != "False" else _why(scheduled),
        waiting=_text(waiting.get("reason")) if not ended else "",
        waiting_message=clean(waiting.get("message")) if not ended else "",
        exit_code=_exit_code(ended),
        reason=reason if ended or phase in ("Succeeded", "Failed") else "",
        finished_s=epoch_s(ended.get("finishedAt")),
        termination=termination_of(ended.get("message")),
        restarts=_number(container.get("restartCount")),
    )


def _is_node_lost(phase: str, deletion_s: float | None, disrupted: Body, status: Body) -> bool:
    """Tell whether the pod was given up because its node does not answer, and nobody has confirmed its end."""
    if deletion_s is None or phase in ("Succeeded", "Failed"):
        return False
    is_tainted = disrupted.get("status") == "True" and disrupted.get("reason") == _TAINTED
    return is_tainted or status.get("reason") == "NodeLost"


def termination_of(message: object) -> Termination | None:
    """Return a container's last word; None where it is none. Its texts are redacted, bounded, and free of controls."""
    if not isinstance(message, str) or len(message) > 2 * limits.MAX_TERMINATION_BYTES:
        return None
    try:
        word = Termination.model_validate_json(message)
        return Termination.model_validate(
            {
                **word.model_dump(),
                "reason": _text(word.reason),
                "message": clean(word.message, max_chars=limits.MAX_MESSAGE_CHARS),
                "node": _text(word.node, max_chars=253),
                "traceback": clean(word.traceback, max_chars=limits.MAX_TERMINATION_BYTES),
                "metrics": {
                    _text(name, max_chars=limits.MAX_METRIC_NAME_CHARS): word.metrics[name] for name in word.metrics
                },
                "step": min(max(word.step, 0), limits.MAX_STEP),
            }
        )
    except (ValidationError, ValueError, RecursionError):
        return None


def resource_view(resource: Body) -> Resource:
    """Return a resource as `decide` sees it; a spec that cannot be validated is None, with every problem named."""
    metadata = _map(resource.get("metadata"))
    spec, refusal = _spec(resource.get("spec"))
    return Resource(
        namespace=_text(metadata.get("namespace")),
        name=_text(metadata.get("name"), max_chars=253),
        uid=_text(metadata.get("uid")),
        generation=_number(metadata.get("generation")),
        created_s=epoch_s(metadata.get("creationTimestamp")) or 0.0,
        spec=spec,
        refusal=refusal,
        status=readable_status(resource.get("status")),
        is_deleted=metadata.get("deletionTimestamp") is not None,
        deleted_s=epoch_s(metadata.get("deletionTimestamp")),
        is_held=names.FINALIZER_SLURM in _list(metadata, "finalizers"),
    )


def _spec(content: object) -> tuple[SAM3FineTuneSpec | None, str]:
    try:
        return SAM3FineTuneSpec.model_validate(content), ""
    except ValidationError as error:
        problems = [str(problem) for problem in find_problems(error, SAM3FineTuneSpec)]
        more = [f"and {len(problems) - MAX_PROBLEMS} more problems"] if len(problems) > MAX_PROBLEMS else []
        return None, clean("\n".join([*problems[:MAX_PROBLEMS], *more]), max_chars=limits.MAX_STATUS_TEXT)
    except (RecursionError, ValueError, TypeError) as error:
        return None, f"the spec cannot be read: {type(error).__name__}"


def _container(status: Body) -> Body:
    """Return the state of the first container, with its restarts; its last end when it waits to be started again."""
    first = _map(next(iter(_list(status, "containerStatuses")), None))
    state = _map(first.get("state"))
    return {**state, "restartCount": first.get("restartCount")}


def _conditions(status: Body) -> dict[str, Body]:
    found = [_map(condition) for condition in _list(status, "conditions")]
    return {condition["type"]: condition for condition in found if isinstance(condition.get("type"), str)}


def _why(condition: Body) -> str:
    return clean(condition.get("message")) or _text(condition.get("reason")) or "not scheduled"


def _exit_code(ended: Body) -> int | None:
    code = ended.get("exitCode")
    return code if isinstance(code, int) and not isinstance(code, bool) and -(2**31) <= code < 2**31 else None


def _index(labels: Body, annotations: Body) -> int | None:
    """Return the completion index, which stands in a label and, in older clusters, in an annotation alone."""
    key = "batch.kubernetes.io/job-completion-index"
    text = labels.get(key, annotations.get(key))
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 8 else None


def _map(value: object) -> Body:
    return value if isinstance(value, Mapping) else {}


def _list(body: Body, name: str) -> list[Any]:
    value = body.get(name)
    return value if isinstance(value, list) else []


def _text(value: object, *, max_chars: int = MAX_WORD_CHARS) -> str:
    """Return a word of the API on one line."""
    return " ".join(clean(value, max_chars=max_chars).split())


def _number(value: object, *, default: int = 0, largest: int = 2**31) -> int:
    """Return a count; labels hold them as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 12:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return default
    return min(max(value, 0), largest)
