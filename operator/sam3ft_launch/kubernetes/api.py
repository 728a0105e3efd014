"""The one way to the API server: plain JSON, bounded in time and rate, every answer counted.

Stands on the `kubernetes` client for addresses, TLS and tokens, and on nothing else of it: its typed models cost a
multiple of the JSON in time and memory, and the objects that pass here are many.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from sam3ft_launch.kubernetes.kinds import POD, Kind
from sam3ft_launch.kubernetes.nesting import shallow
from sam3ft_launch.kubernetes.pace import ServerClock, TokenBucket

Body = dict[str, Any]

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
"""A server-side apply; JSON is YAML."""
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

CONNECT_S = 3.0
ANSWER_S = 10.0
MAX_LINE_BYTES = 8 * 1024 * 1024
"""Bytes of one event of a watch, or line of a log; etcd holds no object beyond 1.5 MiB."""
_READS_TRIED = 3
_MAX_PAUSE_S = 30.0


class ApiProblem(Exception):
    """The API server refused, or did not answer.

    Attributes:
        code: HTTP status; 0 when there was no answer.
        message: the server's sentence.
        reason: the server's CamelCase word, e.g. AlreadyExists; empty without one.
        retry_after_s: how long the server asks to wait; 0 when it does not.
    """

    def __init__(self, code: int, reason: str, message: str, *, retry_after_s: float = 0.0) -> None:
        """Keep what the server said."""
        super().__init__(f"{code or 'no answer'} {reason}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """How the API server is reached.

    Attributes:
        kubeconfig: path of a kubeconfig; None takes the pod's own ServiceAccount, else the user's kubeconfig.
        context: of the kubeconfig; empty for the current one.
        agent: what the audit log calls the caller.
        qps: requests in a second, watches and the Lease apart.
        burst: requests at once.
        connections: connections that are kept.
        answer_s: how long an answer is waited for, watches apart.
    """

    kubeconfig: str | None = None
    context: str = ""
    agent: str = "sam3ft-operator"
    qps: float = 200.0
    burst: float = 400.0
    connections: int = 32
    answer_s: float = ANSWER_S


Counter = Callable[[str, str, int], None]


class Api:
    """Requests to the API server; safe for many threads."""

    def __init__(
        self, settings: ApiSettings, *, count: Counter | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Read the credentials; nothing is sent yet.

        Args:
            settings: how the server is reached.
            count: told verb, kind and HTTP status of every answer; 0 for none.
            sleep: waits for the rate limit.

        Raises:
            RuntimeError: there are no credentials for a cluster.
        """
        self.configuration: Any = _configuration(settings)
        self._client = kubernetes_client.ApiClient(self.configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        self._agent, self._answer_s = settings.agent, settings.answer_s
        self._bucket = TokenBucket(settings.qps, settings.burst)
        self._count = count or (lambda _verb, _kind, _code: None)
        self._sleep = sleep
        self.clock = ServerClock()

    def get(self, kind: Kind, namespace: str, name: str, *, accept: str = JSON) -> Body:
        """Return one object.

        Raises:
            ApiProblem: 404 when it does not exist.
        """
        return self._repeated("get", kind, kind.path(namespace, name), {}, accept)

    def list(self, kind: Kind, namespace: str, query: dict[str, Any], *, accept: str = JSON) -> Body:
        """Return one page of a collection.

        Raises:
            ApiProblem: 410 when `continue` is too old.
        """
        return self._repeated("list", kind, kind.path(namespace), query, accept)

    def create(self, kind: Kind, namespace: str, body: Body, *, manager: str) -> Body:
        """Create an object and return it.

        Raises:
            ApiProblem: 409 AlreadyExists and everything else.
        """
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        return self._send("create", kind, "POST", kind.path(namespace), query, body=body)

    def create_in(self, kind: Kind, namespace: str, name: str, subresource: str, body: Body) -> Body:
        """Create a subresource of an object, as a token of a ServiceAccount, and return it.

        Raises:
            ApiProblem: 404 when the object does not exist.
        """
        return self._send("create", kind, "POST", kind.path(namespace, name, subresource), {}, body=body)

    def replace(self, kind: Kind, namespace: str, name: str, body: Body, *, manager: str) -> Body:
        """Replace an object and return it.

        Raises:
            ApiProblem: 409 Conflict when the resourceVersion is not the newest.
        """
        path = kind.path(namespace, name)
        return self._send("update", kind, "PUT", path, {"fieldManager": manager}, body=body)

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Body,
        *,
        manager: str,
        subresource: str = "",
        content_type: str = MERGE_PATCH,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> Body:
        """Patch an object, or a part of it, and return it.

        A resourceVersion or uid in `metadata` is a precondition. `options` are further parameters of
        the query: `fieldValidation`, and `force` for an apply.

        Raises:
            ApiProblem: 404 when it does not exist, 409 Conflict when a precondition fails.
        """
        path = kind.path(namespace, name, subresource)
        query = {"fieldManager": manager, **options}
        return self._send("patch", kind, "PATCH", path, query, body=body, content_type=content_type)

    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str = "", is_forced: bool = False) -> None:
        """Delete an object in the background.

        Args:
            kind: of the object.
            namespace: in which it is.
            name: of the object.
            uid: the object must have it; empty for any.
            is_forced: without grace, so without waiting for a kubelet's word.

        Raises:
            ApiProblem: 404 when it does not exist, 409 when another uid has its name.
        """
        body: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if is_forced:
            body["gracePeriodSeconds"] = 0
        self._send("delete", kind, "DELETE", kind.path(namespace, name), {}, body=body)

    def stream(
        self, kind: Kind, namespace: str, query: dict[str, Any], *, silence_s: float, accept: str = JSON
    ) -> Iterator[Body]:
        """Yield the events of one watch until the server ends it.

        Args:
            kind: what is watched.
            namespace: in which; empty for all.
            query: of the address.
            silence_s: without a byte for so long the stream is dead.
            accept: form of the objects.

        Raises:
            ApiProblem: 410 when the resourceVersion is too old, 0 when the stream broke or was silent.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", **query}
        for line in self._stream("watch", kind, kind.path(namespace), query, accept, silence_s):
            if line.endswith(b"\n") and line.strip():  # what was cut off in the middle is asked for again
                yield _parsed(line)

    def log(self, namespace: str, pod: str, query: dict[str, Any], *, silence_s: float) -> Iterator[str]:
        """Yield the lines of a pod's log, without line ends, until the server ends it.

        Args:
            namespace: of the pod.
            pod: its name.
            query: of the address, as `follow` and `tailLines`.
            silence_s: without a byte for so long the stream is dead.

        Raises:
            ApiProblem: 404 when the pod does not exist, 400 when it has no log yet, 0 when the stream broke.
        """
        for line in self._stream("log", POD, POD.path(namespace, pod, "log"), query, "*/*", silence_s):
            yield line.decode(errors="replace").rstrip("\r\n")

    def _stream(
        self, verb: str, kind: Kind, path: str, query: dict[str, Any], accept: str, silence_s: float
    ) -> Iterator[bytes]:
        timeout = urllib3.Timeout(connect=CONNECT_S, read=silence_s)
        try:
            answer = self._open("GET", path, query, None, JSON, accept, timeout)
            try:
                self._count(verb, kind.name, answer.status)
                if answer.status != 200:
                    raise _problem(answer)
                yield from _lines(answer)
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise ApiProblem(0, "Broken", _short(error)) from None

    def _repeated(self, verb: str, kind: Kind, path: str, query: dict[str, Any], accept: str) -> Body:
        """Read, a few times when the server is not well: reading changes nothing."""
        for attempt in range(1, _READS_TRIED + 1):
            try:
                return self._send(verb, kind, "GET", path, query, accept=accept)
            except ApiProblem as problem:
                if attempt == _READS_TRIED or not (problem.code == 0 or problem.code >= 500):
                    raise
                self._sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def _send(
        self,
        verb: str,
        kind: Kind,
        method: str,
        path: str,
        query: dict[str, Any],
        *,
        body: Body | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Body:
        if (wait_s := self._bucket.reserve()) > 0:
            self._sleep(wait_s)
        timeout = urllib3.Timeout(connect=CONNECT_S, read=self._answer_s)
        try:
            answer = self._open(method, path, query, body, content_type, accept, timeout)
            try:
                content = answer.read()
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            self._count(verb, kind.name, 0)
            raise ApiProblem(0, "NoAnswer", _short(error)) from None
        self._count(verb, kind.name, answer.status)
        self.clock.told(answer.headers.get("Date"))
        if not 200 <= answer.status < 300:
            problem = _problem(answer, content)
            if problem.code == 429:
                self._bucket.pause(min(_MAX_PAUSE_S, max(1.0, problem.retry_after_s)))
            raise problem
        return _parsed(content)

    def _open(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        body: Body | None,
        content_type: str,
        accept: str,
        timeout: urllib3.Timeout,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, "User-Agent": self._agent}
        if body is not None:
            headers["Content-Type"] = content_type
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        address = f"{self.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        return self._pool.request(
            method,
            address,
            body=json.dumps(body, separators=(",", ":")).encode() if body is not None else None,
            headers=headers,
            timeout=timeout,
            retries=False,
            preload_content=False,
            redirect=False,
        )


def _configuration(settings: ApiSettings) -> Any:
    configuration = kubernetes_client.Configuration()
    library: Any = kubernetes_config  # published without types
    context = settings.context or None
    try:
        if settings.kubeconfig is None and context is None:
            try:
                library.load_incluster_config(client_configuration=configuration)
            except kubernetes_config.ConfigException:
                library.load_kube_config(client_configuration=configuration)
        else:
            library.load_kube_config(settings.kubeconfig, context=context, client_configuration=configuration)
    except (kubernetes_config.ConfigException, OSError) as error:
        raise RuntimeError(
            f"no credentials for a cluster: {error}; set KUBECONFIG, or run inside the cluster"
        ) from None
    configuration.connection_pool_maxsize = settings.connections
    configuration.host = configuration.host.rstrip("/")
    return configuration


def _lines(answer: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield each line of a stream, with its end, as soon as it is complete; the last one may have none."""
    rest = b""
    for chunk in answer.stream(65536, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ApiProblem(0, "TooLong", f"a line has more than {MAX_LINE_BYTES} bytes")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _parsed(content: bytes) -> Body:
    try:
        try:
            body = json.loads(content)
        except RecursionError:
            body = json.loads(shallow(content))
    except ValueError:
        raise ApiProblem(0, "NoJson", "the answer is no JSON") from None
    if not isinstance(body, dict):
        raise ApiProblem(0, "NoJson", "the answer is no JSON object")
    return body


def _problem(answer: urllib3.BaseHTTPResponse, content: bytes | None = None) -> ApiProblem:
    try:
        body = json.loads(answer.read() if content is None else content)
        reason, message = str(body.get("reason") or ""), str(body.get("message") or "")
    except (ValueError, AttributeError):
        reason, message = "", "an answer that is no Status"
    after = answer.headers.get("Retry-After", "")
    return ApiProblem(answer.status, reason, message[:2048], retry_after_s=float(after) if after.isdecimal() else 0.0)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
