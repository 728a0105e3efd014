"""Stand-ins for the API server's client, which record what is asked of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sam3ft_api import names
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import Kind
from sam3ft_launch.kubernetes.pace import ServerClock

UID = "11111111-2222-3333-4444-555555555555"


@dataclass
class FakeApi:
    """Answers from a dictionary of objects, and keeps what was asked.

    `refuse` may raise for (verb, kind, name); it is called before anything happens.
    """

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    refuse: Callable[[str, str, str], None] = lambda _verb, _kind, _name: None
    pages: list[dict[str, Any]] = field(default_factory=list)
    streams: list[list[dict[str, Any] | ApiProblem]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    version: int = 100

    def __post_init__(self) -> None:
        """Have a clock as the real one has."""
        self.clock = ServerClock()

    def get(self, kind: Kind, _namespace: str, name: str, **_: Any) -> dict[str, Any]:
        """Return an object."""
        self._note("get", kind, name)
        return self._found(kind, name)

    def list(self, kind: Kind, _namespace: str, query: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the next page."""
        self._note("list", kind, "")
        self.queries.append(dict(query))
        return self.pages.pop(0)

    def create(self, kind: Kind, namespace: str, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Keep an object that does not exist."""
        name = body["metadata"]["name"]
        self._note("create", kind, name, body)
        if (kind.name, name) in self.objects:
            raise ApiProblem(409, "AlreadyExists", name)
        self.version += 1
        metadata = {"namespace": namespace, "resourceVersion": str(self.version), **body["metadata"]}
        self.objects[kind.name, name] = {**body, "metadata": metadata}
        return self.objects[kind.name, name]

    def replace(self, kind: Kind, _namespace: str, name: str, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Replace an object of the same version."""
        self._note("update", kind, name, body)
        found = self._found(kind, name)
        if found["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiProblem(409, "Conflict", name)
        self.version += 1
        metadata = {**body["metadata"], "resourceVersion": str(self.version)}
        self.objects[kind.name, name] = {**body, "metadata": metadata}
        return self.objects[kind.name, name]

    def patch(self, kind: Kind, _namespace: str, name: str, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Merge into an object."""
        self._note("patch", kind, name, body)
        found = self._found(kind, name)
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != found["metadata"].get("resourceVersion"):
            raise ApiProblem(409, "Conflict", name)
        self.version += 1
        merged = _merged(found, body)
        merged["metadata"]["resourceVersion"] = str(self.version)
        self.objects[kind.name, name] = merged
        return merged

    def delete(self, kind: Kind, _namespace: str, name: str, *, uid: str = "", is_forced: bool = False) -> None:
        """Remove an object."""
        self._note("delete", kind, name, {"uid": uid} | ({"is_forced": True} if is_forced else {}))
        self._found(kind, name)
        del self.objects[kind.name, name]

    def stream(self, kind: Kind, _namespace: str, query: dict[str, Any], **_: Any) -> Iterator[dict[str, Any]]:
        """Yield the next stream's events; a problem among them is raised."""
        self._note("watch", kind, "")
        self.queries.append(dict(query))
        for event in self.streams.pop(0):
            if isinstance(event, ApiProblem):
                raise event
            yield event

    def _note(self, verb: str, kind: Kind, name: str, body: dict[str, Any] | None = None) -> None:
        self.calls.append((verb, kind.name, name))
        if body is not None:
            self.bodies.append(body)
        self.refuse(verb, kind.name, name)

    def _found(self, kind: Kind, name: str) -> dict[str, Any]:
        if (kind.name, name) not in self.objects:
            raise ApiProblem(404, "NotFound", name)
        return self.objects[kind.name, name]


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = {key: value for key, value in old.items() if key not in new or new[key] is not None}
    return merged | {key: _merged(old.get(key), value) for key, value in new.items() if value is not None}


def child(kind: str, name: str, *, uid: str = UID, attempt: int = 0, version: int = 1, **parts: Any) -> dict[str, Any]:
    """Return an object of a run."""
    return {
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "lab",
            "uid": f"uid-of-{name}",
            "resourceVersion": str(version),
            "labels": {names.LABEL_UID: uid, names.LABEL_ATTEMPT: str(attempt), names.LABEL_ROLE: "worker"},
            "ownerReferences": [{"kind": "SAM3FineTune", "name": "blood", "uid": uid}],
        },
        **parts,
    }


def page(*items: dict[str, Any], version: int, more: str = "") -> dict[str, Any]:
    """Return one page of a list."""
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}
