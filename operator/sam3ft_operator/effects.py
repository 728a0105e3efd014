"""What a decision asks for, done on the API server; every action may be repeated and finds what it did before."""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sam3ft_api import names
from sam3ft_api.spec import API_VERSION, KIND
from sam3ft_api.tokens import MIN_KEY_BYTES
from sam3ft_launch.kubernetes.api import APPLY, METADATA, STRATEGIC_PATCH, Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import CHILDREN, FINETUNE, JOB, POD, SECRET, WORKLOAD, Kind
from sam3ft_operator.decision import Action, Admit, Delete, Ensure, FailPod, Hold, Pause, Resize
from sam3ft_operator.observed import JobView, Resource
from sam3ft_operator.store import ChildStore
from sam3ft_operator.views import child_of, clean

_log = logging.getLogger(__name__)

KEY_BYTES = max(32, MIN_KEY_BYTES)
"""Random bytes in the key of a run."""
_NODE_LOST = "NodeLost"
_KUEUE_JOB_UID = "kueue.x-k8s.io/job-uid"


def of_job(uid: str) -> dict[str, Any]:
    """Return the query for the Workloads that Kueue keeps for a Job, by the Job's uid."""
    return {"labelSelector": f"{_KUEUE_JOB_UID}={uid}", "limit": 10}


class Refused(Exception):
    """An action that cannot be done now, with the reason for people; it is tried again later.

    Attributes:
        reason: CamelCase word for the event.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the reason."""
        super().__init__(message)
        self.reason = reason


class Withdrawn(Exception):
    """The resource is gone or being deleted: nothing more may be made for it."""


class Renderer(Protocol):
    """Turns a resource into the objects of one part; pure."""

    def refusal(self, resource: Resource) -> str:
        """Return why a valid resource cannot be run on this cluster, for people; empty when it can."""
        ...

    def objects(self, resource: Resource, wanted: Ensure) -> Sequence[Mapping[str, Any]]:
        """Return the objects of a part in the order in which they are made.

        Raises:
            InvalidConfig: the resource cannot be planned on this cluster.
        """
        ...

    def with_key(self, secret: Mapping[str, Any], key: bytes) -> dict[str, Any]:
        """Return the Secret of a run with its key in it."""
        ...


class Effects:
    """Does actions; safe for many threads, as long as one run is in one of them."""

    def __init__(
        self,
        api: Api,
        children: ChildStore,
        renderer: Renderer,
        *,
        new_key: Callable[[], bytes] = lambda: secrets.token_bytes(KEY_BYTES),
    ) -> None:
        """Prepare.

        Args:
            api: for its requests.
            children: told at once of what has been made, so that the next look sees it.
            renderer: makes the objects.
            new_key: makes the secret key of a run.
        """
        self._api, self._children, self._renderer, self._new_key = api, children, renderer, new_key

    def apply(self, resource: Resource, action: Action) -> None:
        """Do one action.

        Raises:
            Refused: something is in the way; the message says what.
            Withdrawn: the resource has been deleted while its objects were made.
            ApiProblem: the API server refused or did not answer.
        """
        match action:
            case Hold(is_held=is_held):
                self._hold(resource, is_held=is_held)
            case Ensure():
                bodies = [dict(body) for body in self._renderer.objects(resource, action)]
                known = self._known_plain(resource)
                for body in bodies:
                    if (body["kind"], body["metadata"]["name"]) not in known:
                        self._ensure(resource, body)
            case Resize(job=job, nodes=nodes):
                self._patch_job(resource, job, {"parallelism": nodes, "completions": nodes})
            case Pause(job=job, suspend=suspend):
                self._patch_job(resource, job, {"suspend": suspend})
            case Admit():
                self._admit(resource, action)
            case Delete():
                self._delete(resource, action)
            case FailPod():
                self._fail(resource, action)

    def _ensure(self, resource: Resource, body: dict[str, Any]) -> None:
        """Create one object; one that exists must be this run's, and of this attempt where the name does not say it."""
        kind, name = CHILDREN[body["kind"]], str(body["metadata"]["name"])
        wanted = self._renderer.with_key(body, self._new_key()) if kind == SECRET else body
        try:
            made = self._api.create(kind, resource.namespace, wanted, manager=names.FIELD_MANAGER_OPERATOR)
        except ApiProblem as problem:
            if problem.reason == "AlreadyExists":
                self._check_wanted(resource)
                self._check_existing(resource, kind, body)
                return
            if problem.code in (400, 403, 413, 422):
                raise Refused(f"{kind.name}Refused", f"{kind.name} {name}: {problem}") from None
            raise
        self._keep(kind, made)

    def _check_existing(self, resource: Resource, kind: Kind, body: dict[str, Any]) -> None:
        # The key cannot be read, so the Secret cannot be looked at. It is made after the preflight's objects, of which
        # the owner was checked: whatever an earlier resource of this name has left is collected by then.
        if kind == SECRET:
            return
        name = str(body["metadata"]["name"])
        metadata = self._api.get(kind, resource.namespace, name, accept=METADATA).get("metadata") or {}
        owners = {str(owner.get("uid")) for owner in metadata.get("ownerReferences") or []}
        if resource.uid not in owners:
            raise Refused(
                "NameTaken",
                f"{kind.name} {name} exists and is not this run's; delete it, or give the resource another name",
            )
        label = names.LABEL_ATTEMPT
        attempts = [str((part.get("labels") or {}).get(label, "")) for part in (metadata, body["metadata"])]
        is_going = metadata.get("deletionTimestamp") is not None
        if is_going or (kind in (POD, JOB) and attempts[0] != attempts[1]):
            raise Refused("StillEnding", f"{kind.name} {name} of attempt {attempts[0] or '0'} has not ended yet")

    def _check_wanted(self, resource: Resource) -> None:
        """Whoever has made an object may be far ahead: what comes next may have been made and collected already."""
        metadata = self._metadata(resource, FINETUNE, resource.name)
        if metadata.get("uid") != resource.uid or "deletionTimestamp" in metadata:
            raise Withdrawn

    def _hold(self, resource: Resource, *, is_held: bool) -> None:
        """Apply the finalizer as a field of the operator's own, so that those of others stay as they are."""
        finalizers = {"finalizers": [names.FINALIZER_SLURM]} if is_held else {}
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": resource.name, "namespace": resource.namespace, "uid": resource.uid, **finalizers},
        }
        try:
            self._api.patch(
                FINETUNE,
                resource.namespace,
                resource.name,
                body,
                manager=names.FIELD_MANAGER_OPERATOR,
                content_type=APPLY,
                options={"force": "true"},
            )
        except ApiProblem as problem:
            # The uid keeps an apply from making what is gone.
            if not self._is_gone(resource, FINETUNE, resource.name, resource.uid, problem):
                raise

    def _patch_job(self, resource: Resource, name: str, spec: dict[str, Any]) -> None:
        job = self._known_job(resource, name)
        if job is None:
            return
        body = {"metadata": {"uid": job.uid}, "spec": spec}
        try:
            made = self._api.patch(JOB, resource.namespace, name, body, manager=names.FIELD_MANAGER_OPERATOR)
        except ApiProblem as problem:
            if problem.code == 404:
                return
            if problem.code == 422:
                raise Refused("JobRefused", f"Job {name}: {problem}") from None
            raise
        self._keep(JOB, made)

    def _admit(self, resource: Resource, action: Admit) -> None:
        """Kueue labels a Workload with the uid of its Job; an elastic Job may have two while it grows."""
        try:
            found = self._api.list(WORKLOAD, resource.namespace, of_job(action.uid))["items"]
            for workload in found:
                name, body = str(workload["metadata"]["name"]), {"spec": {"active": action.is_active}}
                self._api.patch(WORKLOAD, resource.namespace, name, body, manager=names.FIELD_MANAGER_OPERATOR)
        except ApiProblem as problem:
            if problem.code == 404:
                raise Refused("KueueMissing", f"Job {action.job} waits in a queue, and Kueue is not there") from None
            raise

    def _known_plain(self, resource: Resource) -> set[tuple[str, str]]:
        """Return kind and name of the run's children of which only the existence matters.

        They are not made again, so that each look gets further than the one before it, however often a request fails.
        """
        found = self._children.of_run(resource.namespace, resource.uid)
        return {(kind, name) for kind, name, view in found if view is None}

    def _known_job(self, resource: Resource, name: str) -> JobView | None:
        found = self._children.of_run(resource.namespace, resource.uid)
        return next(
            (view for kind, at, view in found if kind == JOB.name and at == name and isinstance(view, JobView)), None
        )

    def _delete(self, resource: Resource, action: Delete) -> None:
        kind = CHILDREN[action.kind]
        try:
            self._api.delete(kind, resource.namespace, action.name, uid=action.uid, is_forced=action.is_forced)
        except ApiProblem as problem:
            if not self._is_gone(resource, kind, action.name, action.uid, problem):
                raise

    def _fail(self, resource: Resource, action: FailPod) -> None:
        status = {"phase": "Failed", "reason": _NODE_LOST, "message": clean(action.message)}
        body = {"metadata": {"uid": action.uid}, "status": status}
        try:
            made = self._api.patch(
                POD,
                resource.namespace,
                action.pod,
                body,
                manager=names.FIELD_MANAGER_OPERATOR,
                subresource="status",
                content_type=STRATEGIC_PATCH,
            )
        except ApiProblem as problem:
            if not self._is_gone(resource, POD, action.pod, action.uid, problem):
                raise
            return
        self._keep(POD, made)

    def _is_gone(self, resource: Resource, kind: Kind, name: str, uid: str, problem: ApiProblem) -> bool:
        """Tell whether a write was refused because what was meant is gone, or another object has its name by now.

        A conflict alone does not say it: the API server answers so too when others write at the same time.
        """
        if problem.code != 409 or not uid or kind == SECRET:
            return problem.code == 404
        return bool(self._metadata(resource, kind, name).get("uid") != uid)

    def _metadata(self, resource: Resource, kind: Kind, name: str) -> dict[str, Any]:
        """Return the metadata of an object; empty when it is not there."""
        try:
            return self._api.get(kind, resource.namespace, name, accept=METADATA).get("metadata") or {}
        except ApiProblem as problem:
            if problem.code != 404:
                raise
            return {}

    def _keep(self, kind: Kind, body: dict[str, Any]) -> None:
        if kind != SECRET and (found := child_of(kind, body)) is not None:
            self._children.put_own(kind.name, *found)
