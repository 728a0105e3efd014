"""The audit log of an API server: every request that it has answered."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Call:
    """One answered request, from the audit log; `subresource`, `namespace` and `name` are empty where it has none."""

    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int


def audit_entries(log: bytes) -> Iterator[dict[str, Any]]:
    """Yield the entries of an audit log; one that is still being written is left out.

    Only line feeds end a line: what users have sent stands in it unchanged, Unicode's other line ends as well.
    """
    for line in log.split(b"\n"):
        if line.endswith(b"}"):
            yield json.loads(line)
