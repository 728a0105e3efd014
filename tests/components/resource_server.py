"""One kept connection to the resources of a namespace on a real API server: thousands of verdicts in a minute."""

import http.client
import json
import ssl
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from control_plane import ControlPlane

from sam3ft_api.spec import GROUP, PLURAL, VERSION


class ResourceServer:
    """The administrator's requests about resources; `with` closes the connection."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """Connect with the first request."""
        self._token, self._path = plane.admin_token, f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
        context = ssl.create_default_context(cafile=str(plane.ca_file))
        address = urlsplit(plane.url)
        self._connection = http.client.HTTPSConnection(str(address.hostname), address.port, context=context, timeout=60)

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._connection.close()

    def verdict(self, document: Any) -> str:
        """Return why the API server refuses a new resource under strict field validation; empty when it accepts it."""
        status, answer = self._ask("POST", "?dryRun=All&fieldValidation=Strict", document)
        return "" if status == 201 else f"{status} {answer['message']}"

    def verdict_on_change(self, document: dict[str, Any]) -> str:
        """Return why the API server refuses that a stored resource becomes this one; empty when it accepts it."""
        name = document["metadata"]["name"]
        status, answer = self._ask("PUT", f"/{name}?dryRun=All&fieldValidation=Strict", document)
        return "" if status == 200 else f"{status} {answer['message']}"

    def create(self, document: dict[str, Any]) -> dict[str, Any]:
        """Store a resource and return it."""
        status, answer = self._ask("POST", "?fieldValidation=Strict", document)
        assert status == 201, answer
        return answer

    def get(self, name: str) -> dict[str, Any]:
        """Return a resource that exists."""
        status, answer = self._ask("GET", f"/{name}", None)
        assert status == 200, answer
        return answer

    def patch(self, name: str, document: Any, *, subresource: str = "") -> tuple[int, dict[str, Any]]:
        """Return the status and the answer of a merge patch."""
        return self._ask("PATCH", f"/{name}{subresource}", document, "application/merge-patch+json")

    def _ask(self, method: str, path: str, document: Any, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        body = None if method == "GET" else json.dumps(document)
        self._connection.request(method, self._path + path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())
