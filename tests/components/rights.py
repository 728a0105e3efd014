"""What accounts were allowed to do and what they did, from rules of RBAC and the audit log of a control plane."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from control_plane import ControlPlane


class Right(NamedTuple):
    """One thing that an account may do; `resource` holds its subresource, as `pods/status`."""

    group: str
    resource: str
    verb: str


def granted(rules: Iterable[dict[str, Any]]) -> set[Right]:
    """Return what PolicyRules allow, one by one; names of objects are left out."""
    return {
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(plane: ControlPlane, *, user: str) -> set[Right]:
    """Return what a user has asked for with success."""
    return {_right(entry) for entry in _entries(plane, user) if 200 <= entry["responseStatus"]["code"] < 300}


def refused(plane: ControlPlane, *, user: str) -> set[Right]:
    """Return what users, whose names end like this, have asked for without a right to it."""
    found = _entries(plane, user)
    # A namespace that is being deleted answers 403 as well, to whom it may.
    return {_right(it) for it in found if it.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"}


def _entries(plane: ControlPlane, user: str) -> Iterator[dict[str, Any]]:
    with plane.audit_log.open() as lines:
        for line in lines:
            if user in line and line.endswith("}\n"):  # most lines are about somebody else, and parsing is slow
                entry = json.loads(line)
                if entry["user"]["username"].endswith(user) and "responseStatus" in entry:
                    yield entry


def _right(entry: dict[str, Any]) -> Right:
    about = entry.get("objectRef", {})
    subresource = f"/{about['subresource']}" if "subresource" in about else ""
    return Right(about.get("apiGroup", ""), about.get("resource", "") + subresource, entry["verb"])
