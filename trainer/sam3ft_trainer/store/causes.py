"""Why a store did not do what it was asked: one cause for each failure, from the words of obstore and of the servers.

Servers answer a failed signature with what was signed, keys and tokens included. Therefore nothing that a server says
is ever repeated but the status and the short code of its answer.
"""

import errno
import re
from dataclasses import dataclass
from enum import Enum

from obstore import exceptions as obe

from sam3ft_api.redact import redact


class Kind(Enum):
    """What a failure means for whoever asked."""

    MISSING = "there is no such object"
    EXISTS = "the key is taken"
    CONFLICT = "another writer is at it, nothing was written"
    BEYOND = "the range begins behind the object's end"
    FULL = "no room"
    DENIED = "asking again does not help"
    SILENT = "asking again may help"


@dataclass(frozen=True, slots=True)
class Cause:
    """One failure.

    Attributes:
        kind: what it means.
        advice: what failed and what to do, as half a sentence.
        reason: status and code, or the operating system's words; without anything secret.
    """

    kind: Kind
    advice: str
    reason: str


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_GONE = "there is no such object; check the address and what was deleted"
_REGION = "the region is wrong; set region in the storage profile, or AWS_REGION"
_RIGHTS = "access refused; check credentials and permissions"
_NO_BUCKET = "there is no such bucket; check the address, or have it made (sam3ft makes none)"
_TOKEN = "the session token is not valid or no longer; renew the credentials"  # noqa: S105 - a sentence
_KEY_ID = "the store does not know this access key; check the key id and the endpoint"
_SIGNATURE = "the signature is wrong: the secret key does not belong to the key id; check both, and what lies between"
_CLOCK = "the clock of this machine differs from the store's by minutes; set it right"
_UNTRUSTED = (
    "the server's certificate is not trusted; name its authority with caFile in the storage profile, and check the "
    "endpoint's name and the certificate's dates"
)
_ODD = "the store does not take this name or request"
_NO_ANSWER = "no answer from the store"
_BUSY = "the store is overloaded"
_CODES = {
    **dict.fromkeys(("NoSuchKey", "BlobNotFound", "NoSuchUpload", "NoSuchVersion"), (Kind.MISSING, _GONE)),
    **dict.fromkeys(("NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"), (Kind.DENIED, _NO_BUCKET)),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "XAdminUserNotFound", "XAdminNoSuchUser", "InvalidAccessKey"), (Kind.DENIED, _KEY_ID)
    ),
    **dict.fromkeys(("SignatureDoesNotMatch", "InvalidSignature"), (Kind.DENIED, _SIGNATURE)),
    **dict.fromkeys(("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"), (Kind.DENIED, _TOKEN)),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestNotReadyYet"), (Kind.DENIED, _CLOCK)),
    **dict.fromkeys(
        ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"),
        (Kind.DENIED, _REGION),
    ),
    **dict.fromkeys(("PreconditionFailed", "BlobAlreadyExists", "ConditionNotMet"), (Kind.EXISTS, "the key is taken")),
    **dict.fromkeys(
        ("ConditionalRequestConflict", "OperationAborted"), (Kind.CONFLICT, "another writer is at the same object")
    ),
    **dict.fromkeys(
        ("QuotaExceeded", "QuotaExceededException", "XStorageFull", "InsufficientCapacity", "StorageFull"),
        (Kind.FULL, "no room left"),
    ),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "ServerBusy", "TooManyRequests"), (Kind.SILENT, _BUSY)),
    **dict.fromkeys(("NotImplemented", "MethodNotAllowed"), (Kind.DENIED, "the store does not know this request")),
    "InvalidRange": (Kind.BEYOND, "the range begins behind the object's end"),
    "RequestTimeout": (Kind.SILENT, "the store waited in vain for the request"),
    "InternalError": (Kind.SILENT, "the store has failed inside"),
}
"""Meaning of the codes by which S3, its imitations and Azure name a failure."""
_STATUSES = {
    301: (Kind.DENIED, _REGION),
    307: (Kind.DENIED, _REGION),
    401: (Kind.DENIED, _RIGHTS),
    403: (Kind.DENIED, _RIGHTS),
    408: (Kind.SILENT, "the store waited in vain for the request"),
    409: (Kind.DENIED, "something else of this name stands in the way"),
    412: (Kind.EXISTS, "the key is taken"),
    416: (Kind.BEYOND, "the range begins behind the object's end"),
    429: (Kind.SILENT, _BUSY),
    501: (Kind.DENIED, "the store does not know this request"),
    503: (Kind.SILENT, _BUSY),
    507: (Kind.FULL, "no room left"),
}
_TRANSPORT = (
    (
        r"UnknownIssuer|CaUsedAsEndEntity|BadSignature|NotValidForName|invalid peer certificate|InvalidCertificate",
        Kind.DENIED,
        _UNTRUSTED,
    ),
    (
        r"InvalidContentType|corrupt message|WRONG_VERSION|UnexpectedMessage",
        Kind.DENIED,
        "the server speaks no TLS at this port; check the endpoint",
    ),
    (
        r"dns error|failed to lookup|Name or service not known",
        Kind.SILENT,
        "the name of the endpoint does not resolve; check its spelling and the name server",
    ),
    (
        r"ConnectionRefused|Connection refused",
        Kind.SILENT,
        "nothing answers at the endpoint's port; check that the service runs",
    ),
    (r"NetworkUnreachable|HostUnreachable|No route to host", Kind.SILENT, "there is no way to the endpoint's network"),
    (r"Wanted range starting at", Kind.BEYOND, "the range begins behind the object's end"),
    (r"kind: Timeout|TimedOut|timed out", Kind.SILENT, "no answer in time"),
    (
        r"IncompleteMessage|IncompleteBody|UnexpectedEof|ConnectionReset|Interrupted",
        Kind.SILENT,
        "the answer broke off",
    ),
)
_STATUS = re.compile(r"status code: ([0-9]{3})|\(code: ([0-9]{3})\)")
_CODE = re.compile(r"<Code>([A-Za-z][A-Za-z0-9.]{1,63})</Code>|\"code\":\s*\"([A-Za-z][A-Za-z0-9.]{1,63})\"")
_ASKED = re.compile(r"Error performing [A-Z]+ (https?://[^\s/?]+)")


def cause_of(error: Exception, *, endpoint: str | None) -> Cause:
    """Return why a request failed.

    Args:
        error: what obstore or the operating system raised.
        endpoint: URL of the service that was asked; None for a folder.
    """
    return _cause_in_folder(error) if endpoint is None else _cause_in_bucket(error, endpoint)


def _cause_in_bucket(error: Exception, endpoint: str) -> Cause:
    text = str(error)
    if "credential provider" in text:
        return _without_credentials(text)
    if isinstance(error, obe.InvalidPathError | obe.NotSupportedError):
        return Cause(Kind.DENIED, _ODD, _first_line(text))
    asked = _ASKED.search(text)
    if asked is not None and not _same_service(asked[1], endpoint):
        return Cause(
            Kind.DENIED,
            "there are no credentials: none were given, and this machine has no identity that the cloud knows; give "
            "keys through the environment or a folder of a Secret, or set anonymous: true in the storage profile",
            "no answer from the identity service",
        )
    status, code = _status_and_code(text)
    if status == 404 and "container does not exist" in text:
        code = "ContainerNotFound"
    if status is None and code is None:
        return _cause_of_transport(error, text)
    reason = " ".join([*([] if status is None else [f"status {status}"]), *([] if code is None else [code])])
    kind, advice = _meaning(status, code, is_missing=isinstance(error, FileNotFoundError | obe.NotFoundError))
    return Cause(kind, advice, reason)


def _meaning(status: int | None, code: str | None, *, is_missing: bool) -> tuple[Kind, str]:
    if code in _CODES:
        return _CODES[code]
    if status in _STATUSES:
        return _STATUSES[status]
    if status == 404:
        # Without a code only the answer about one object can mean the object; that to a list means the bucket.
        return (Kind.MISSING, _GONE) if is_missing and code is None else (Kind.DENIED, _NO_BUCKET)
    if status is not None and status >= 500:
        return Kind.SILENT, "the store has failed inside"
    return Kind.DENIED, "the store refuses the request; check address, credentials and region"


def _cause_of_transport(error: Exception, text: str) -> Cause:
    for pattern, kind, advice in _TRANSPORT:
        found = re.search(pattern, text)
        if found is not None:
            return Cause(kind, advice, found[0])
    if "Received redirect without LOCATION" in text:
        return Cause(Kind.DENIED, _REGION, "redirected")
    if isinstance(error, ValueError):
        return Cause(Kind.DENIED, _ODD, _first_line(text))
    return Cause(Kind.SILENT, _NO_ANSWER, _first_line(text))


def _without_credentials(text: str) -> Cause:
    """Our own providers' words are made for people; everybody else's are left out."""
    own = re.search(r"InvalidConfig: ([^\n]+)", text)
    words = own[1] if own else "the credentials could not be read"
    return Cause(Kind.DENIED, words, "no credentials")


def _cause_in_folder(error: Exception) -> Cause:
    number, reason = _error_number(error), _first_line(str(error))
    rules = (
        (isinstance(error, obe.AlreadyExistsError | obe.PreconditionError) or number == errno.EEXIST, Kind.EXISTS, ""),
        (isinstance(error, FileNotFoundError | obe.NotFoundError) or number == errno.ENOENT, Kind.MISSING, _GONE),
        (number in _NO_ROOM, Kind.FULL, ""),
        (
            isinstance(error, obe.PermissionDeniedError | obe.UnauthenticatedError | PermissionError)
            or number in _REFUSED,
            Kind.DENIED,
            _RIGHTS,
        ),
        ("StartTooLarge" in str(error), Kind.BEYOND, ""),
        (isinstance(error, ValueError | obe.InvalidPathError | obe.NotSupportedError), Kind.DENIED, _ODD),
    )
    kind, advice = next(((kind, advice) for holds, kind, advice in rules if holds), (Kind.SILENT, _NO_ANSWER))
    return Cause(kind, advice or kind.value, reason)


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\(os error (\d+)\)|code: (\d+),", str(error))
    return int(match[1] or match[2]) if match else None


def _status_and_code(text: str) -> tuple[int | None, str | None]:
    status, code = _STATUS.search(text), _CODE.search(text)
    return int(status[1] or status[2]) if status else None, (code[1] or code[2]) if code else None


def _same_service(asked: str, endpoint: str) -> bool:
    """Whether a request went to the store and not to a service of identities."""
    return asked.rstrip("/").casefold() == endpoint.rstrip("/").casefold()


def _first_line(text: str) -> str:
    """Return one line without queries of addresses, which may be signed."""
    return redact(re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", text.split("\n", 1)[0]))[:300]
