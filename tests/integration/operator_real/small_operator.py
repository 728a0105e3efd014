"""An operator with the real engine and a core of a few lines: what is tested with it is the engine alone."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sam3ft_api import names
from sam3ft_api.spec import API_VERSION, KIND
from sam3ft_api.status import AttemptStatus, Phase, SAM3FineTuneStatus, SummaryStatus
from sam3ft_operator import logs
from sam3ft_operator.app import Operator
from sam3ft_operator.decision import Action, Decision, Ensure, Note, Part, Pause, Resize
from sam3ft_operator.observed import Children, JobView, Resource
from sam3ft_operator.options import parse


def decide(resource: Resource, children: Children, *, now_s: float) -> Decision:
    """Check, train on as many nodes as wanted, succeed; what fails is the end."""
    assert resource.spec is not None
    check, job = children.preflight_job(), children.worker_job(1)
    phase, actions, message = _step(resource, children, check, job)
    opened = resource.status.attempts or (
        (AttemptStatus(n=1, started=datetime.fromtimestamp(int(now_s), UTC)),) if job or phase is Phase.STARTING else ()
    )
    status = SAM3FineTuneStatus().model_copy(
        update={
            "phase": phase,
            "observed_generation": resource.generation,
            "attempts": opened,
            "summary": SummaryStatus(message=message),
        }
    )
    notes = (Note("Normal", "Phase", f"now {phase.value}"),) if phase is not resource.status.phase else ()
    return Decision(status, tuple(actions), notes)


def _step(
    resource: Resource, children: Children, check: JobView | None, job: JobView | None
) -> tuple[Phase, list[Action], str]:
    assert resource.spec is not None
    nodes = resource.spec.workers.nodes
    if check is None:
        return Phase.CHECKING, [Ensure(Part.PREFLIGHT)], ""
    if check.failure_reason:
        words = [pod.termination.message for pod in children.pods if pod.termination is not None]
        return Phase.FAILED, [], words[0] if words else ""
    if not check.is_complete:
        return Phase.CHECKING, [], ""
    if job is None:
        return Phase.STARTING, [Ensure(Part.GROUP, nodes=nodes), Ensure(Part.WORKERS, nodes=nodes)], ""
    if job.is_complete:
        return Phase.SUCCEEDED, [], ""
    actions: list[Action] = []
    if job.parallelism != nodes:
        actions.append(Resize(job.name, nodes))
    if job.is_suspended != resource.spec.suspend:
        actions.append(Pause(job.name, resource.spec.suspend))
    running = sum(pod.phase == "Running" for pod in children.of_role("worker"))
    return (Phase.RUNNING if running >= nodes else Phase.STARTING), actions, f"{running} of {nodes}"


class SmallRenderer:
    """Objects with as little in them as the API server accepts."""

    def refusal(self, _: Resource) -> str:
        """Refuse nothing."""
        return ""

    def objects(self, resource: Resource, wanted: Ensure) -> Sequence[Mapping[str, Any]]:
        """Return the objects of a part."""
        match wanted.part:
            case Part.PREFLIGHT:
                config = _object(resource, "v1", "ConfigMap", "config", role="preflight") | {"data": {"a": "b"}}
                return [config, self._job(resource, "preflight", attempt=0, nodes=1)]
            case Part.GROUP:
                secret = _object(resource, "v1", "Secret", "token", role="coordinator") | {"type": "Opaque"}
                service = _object(resource, "v1", "Service", "coordinator", role="coordinator")
                service["spec"] = {"ports": [{"port": 7350}], "selector": {names.LABEL_UID: resource.uid}}
                pod = _object(resource, "v1", "Pod", "coordinator", role="coordinator", attempt=wanted.attempt)
                return [secret, service, pod | {"spec": _pod_spec("coordinator")}]
            case Part.WORKERS:
                return [self._job(resource, "worker", attempt=wanted.attempt, nodes=wanted.nodes)]

    def with_key(self, secret: Mapping[str, Any], key: bytes) -> dict[str, Any]:
        """Return the Secret with its key."""
        return {**secret, "stringData": {"key": key.hex()}}

    def _job(self, resource: Resource, role: str, *, attempt: int, nodes: int) -> dict[str, Any]:
        suffix = role if role == "preflight" else str(attempt)
        job = _object(resource, "batch/v1", "Job", suffix, role=role, attempt=attempt)
        template = {"metadata": {"labels": job["metadata"]["labels"]}, "spec": _pod_spec(role)}
        return job | {
            "spec": {
                "completions": nodes,
                "parallelism": nodes,
                "completionMode": "Indexed",
                "backoffLimit": 0,
                "template": template,
            }
        }


def _object(resource: Resource, version: str, kind: str, suffix: str, *, role: str, attempt: int = 0) -> dict[str, Any]:
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": resource.name, "uid": resource.uid, "controller": True}
    labels = {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_UID: resource.uid,
        names.LABEL_ROLE: role,
        names.LABEL_ATTEMPT: str(attempt),
    }
    metadata = {"name": names.object_name(resource.name, suffix), "labels": labels, "ownerReferences": [owner]}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _pod_spec(name: str) -> dict[str, Any]:
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": name, "image": "registry.example/none:1", "securityContext": restricted}],
    }


if __name__ == "__main__":
    options = parse()
    logs.set_up(verbose=options.verbose)
    sys.exit(Operator(options, decide=decide, renderer=SmallRenderer(), coordinator_port=7351).run())
