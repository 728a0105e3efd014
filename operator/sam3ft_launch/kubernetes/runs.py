"""The runs of one namespace, as their users see and change them: with their own rights, through the resource alone."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from sam3ft_api import names
from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_api.spec import API_VERSION, KIND, SAM3FineTune
from sam3ft_api.status import ConditionType, Phase, SAM3FineTuneStatus
from sam3ft_launch.backend import TransientError
from sam3ft_launch.kubernetes.api import APPLY, Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import EVENT, FINETUNE, JOB, POD, Kind

FIELD_MANAGER = "sam3ft"
"""Owns the fields that `sam3ft` has written; other tools own theirs."""
_MANAGER = re.compile(r'conflicts? with "([^"]+)"')
"""How the API server names those whose fields an apply would change."""
_STRICT = MappingProxyType({"fieldValidation": "Strict"})
"""A definition that is older than this program must not drop what it does not know."""
_CONFLICT = 409
_PAGE = 500
_SHOWN_NAMES = 20


class NoSuchRun(InvalidConfig):
    """There is no resource of this name, or another one has the name now."""


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """A resource at one moment.

    Attributes:
        name: of the resource.
        namespace: in which it is.
        uid: its identity; a name is given again.
        generation: of the spec, raised by each change of it.
        created: when it was made.
        deleted: when its deletion was asked for; None as long as nobody has.
        spec: as it is stored.
        status: what the operator has written; empty before it has looked.
    """

    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime
    deleted: datetime | None
    spec: Mapping[str, Any]
    status: SAM3FineTuneStatus = field(default_factory=SAM3FineTuneStatus)

    @property
    def phase(self) -> Phase:
        """The operator's word; Pending before it has looked."""
        return self.status.phase or Phase.PENDING

    @property
    def is_suspended(self) -> bool:
        """Whether the spec asks for it; the phase tells whether it has come to pass."""
        return bool(self.spec.get("suspend"))

    @property
    def message(self) -> str:
        """What the run does or waits for, in the operator's sentence; may be empty."""
        return self.status.summary.message if self.status.summary else ""


def to_run(raw: Mapping[str, Any]) -> ClusterRun:
    """Return a resource as the API server has sent it; conditions that only a newer operator knows are left out.

    Raises:
        InvalidConfig: its status is not one of this release's.
    """
    metadata = raw["metadata"]
    told = raw.get("status") or {}
    if isinstance(conditions := told.get("conditions"), list):
        told = {**told, "conditions": [it for it in conditions if it.get("type") in set(ConditionType)]}
    try:
        status = SAM3FineTuneStatus.model_validate(told)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InvalidConfig(
            f"{metadata['name']}: status.{where} is not what this release of sam3ft knows; "
            "use the release that the cluster's operator has"
        ) from None
    return ClusterRun(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata["uid"],
        generation=int(metadata.get("generation", 0)),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleted=datetime.fromisoformat(at) if (at := metadata.get("deletionTimestamp")) else None,
        spec=raw.get("spec") or {},
        status=status,
    )


class ClusterRuns:
    """Reads and changes the resources of a namespace.

    Every method raises `TransientError` when the API server did not answer or is not well, and `InvalidConfig` when it
    refuses: unknown credentials, missing rights, or a spec against the rules, in the server's words.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        """Ask nothing yet.

        Args:
            api: with the user's credentials.
            namespace: of the runs.
        """
        self.api = api
        self.namespace = namespace

    def get(self, name: str, *, uid: str = "") -> ClusterRun:
        """Return a run.

        Args:
            name: of the resource.
            uid: it must have it; empty for any.

        Raises:
            NoSuchRun: there is none; the message names those there are.
        """
        try:
            found = to_run(self.api.get(FINETUNE, self.namespace, name))
        except ApiProblem as problem:
            if problem.code != 404:
                raise told(problem, f"reading {name}") from None
            raise self._no_such(name) from None
        if uid and found.uid != uid:
            raise NoSuchRun(f"{name} was deleted, and another run has its name now")
        return found

    def all(self) -> list[ClusterRun]:
        """Return the runs of the namespace by name."""
        doing = f"listing the runs of namespace {self.namespace}"
        return sorted((to_run(raw) for raw in self._items(FINETUNE, {}, doing)), key=lambda run: run.name)

    def apply(self, finetune: SAM3FineTune) -> ClusterRun:
        """Create the run, or change it to what the file says; fields that only others have written stay as they are.

        Raises:
            InvalidConfig: the server refuses the spec or the change, or another tool has written another value into a
                field that the file sets; the message names the field.
        """
        metadata = finetune.metadata
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": metadata.name, "namespace": self.namespace}
            | ({"labels": dict(metadata.labels)} if metadata.labels else {})
            | ({"annotations": dict(metadata.annotations)} if metadata.annotations else {}),
            "spec": finetune.spec.model_dump(mode="json", exclude_unset=True),
        }
        try:
            return to_run(self._applied(metadata.name, body))
        except ApiProblem as problem:
            raise told(problem, f"applying {metadata.name}") from None

    def _applied(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Apply; what this program itself has set by another verb, as `scale`, the file takes back."""
        apply = partial(
            self.api.patch,
            FINETUNE,
            self.namespace,
            name,
            body,
            manager=FIELD_MANAGER,
            content_type=APPLY,
        )
        try:
            return apply(options=_STRICT)
        except ApiProblem as problem:
            managers = set(_MANAGER.findall(problem.message))
            if problem.code != _CONFLICT or managers != {FIELD_MANAGER}:
                raise
            return apply(options={**_STRICT, "force": "true"})

    def change(self, run: ClusterRun, **spec: Any) -> ClusterRun:
        """Merge fields into the spec of exactly this resource, whatever else is changed at the same time.

        Raises:
            NoSuchRun: it is gone, or another has its name.
            InvalidConfig: the server refuses the change.
        """
        body = {"metadata": {"uid": run.uid}, "spec": spec}
        try:
            patched = self.api.patch(FINETUNE, self.namespace, run.name, body, manager=FIELD_MANAGER, options=_STRICT)
            return to_run(patched)
        except ApiProblem as problem:
            if problem.code in (404, 409):
                raise NoSuchRun(f"{run.name} was deleted at the same moment") from None
            raise told(problem, f"changing {run.name}") from None

    def scale(self, run: ClusterRun, nodes: int) -> None:
        """Ask for so many nodes, as `kubectl scale` does.

        Raises:
            InvalidConfig: the server refuses it, for instance because of `minNodes` and `maxNodes`.
        """
        body = {"spec": {"replicas": nodes}}
        try:
            self.api.patch(FINETUNE, self.namespace, run.name, body, manager=FIELD_MANAGER, subresource="scale")
        except ApiProblem as problem:
            raise told(problem, f"scaling {run.name} to {nodes} nodes") from None

    def delete(self, run: ClusterRun) -> None:
        """Delete the resource; its children follow, checkpoints and exports stay. Nothing happens when it is gone."""
        try:
            self.api.delete(FINETUNE, self.namespace, run.name, uid=run.uid)
        except ApiProblem as problem:
            if problem.code not in (404, 409):  # gone, or another run has its name
                raise told(problem, f"deleting {run.name}") from None

    def pods(self, run: ClusterRun) -> list[dict[str, Any]]:
        """Return the pods of a run that exist, as the server sends them."""
        query = {"labelSelector": f"{names.LABEL_UID}={run.uid}"}
        return list(self._items(POD, query, f"listing the pods of {run.name}"))

    def events(self, run: ClusterRun) -> list[dict[str, Any]]:
        """Return what is told about a run, and warnings about its Jobs and pods, as the server sends it; unordered."""
        doing = f"listing the events of {run.name}"
        found = list(self._items(EVENT, {"fieldSelector": f"involvedObject.uid={run.uid}"}, doing))
        query = {"labelSelector": f"{names.LABEL_UID}={run.uid}"}
        children = {
            child["metadata"]["uid"]
            for kind in (JOB, POD)
            for child in self._items(kind, query, f"listing the {kind.plural} of {run.name}")
        }
        warnings = self._items(EVENT, {"fieldSelector": "type=Warning"}, doing)
        found.extend(event for event in warnings if event.get("involvedObject", {}).get("uid") in children)
        return found

    def _items(self, kind: Kind, query: dict[str, Any], doing: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of a collection, page by page."""
        more = ""
        while True:
            asked = query | {"limit": _PAGE} | ({"continue": more} if more else {})
            try:
                page = self.api.list(kind, self.namespace, asked)
            except ApiProblem as problem:
                raise told(problem, doing) from None
            yield from page.get("items") or []
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return

    def _no_such(self, name: str) -> NoSuchRun:
        known = [run.name for run in self.all()]
        there = f"there are: {', '.join(known[:_SHOWN_NAMES])}" if known else "there is none"
        return NoSuchRun(f"no run {name!r} in namespace {self.namespace}; {there}")


def told(problem: ApiProblem, doing: str) -> Sam3ftError:
    """Return what a user is told when the API server refuses or does not answer; says what to do."""
    if problem.code == 401:
        return InvalidConfig(f"{doing}: the cluster does not know these credentials; log in again, or name a --context")
    if problem.code == 403:
        return InvalidConfig(f"{doing}: {problem.message}; ask the cluster's administrator for this right")
    if problem.code == 404 and "could not find the requested resource" in problem.message:
        return InvalidConfig(
            f"{doing}: this cluster does not know {KIND}; install sam3ft there, or name another --context"
        )
    if 400 <= problem.code < 500 and problem.code != 429:
        return InvalidConfig(f"{doing}: {problem.message}")
    return TransientError(
        f"{doing}: the API server is not well ({problem}); try again, or look at `kubectl get --raw /readyz`"
    )
