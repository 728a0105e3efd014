import threading
from typing import Any

import obstore
import pytest
from obstore import exceptions as obe
from obstore.store import MemoryStore

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.store.backends import Backends
from sam3ft_trainer.store.causes import Kind, cause_of
from sam3ft_trainer.store.objects import AlreadyExists, NotFound, Store, probe_fence

SERVICE = "https://s3.lab.example:7480"


def _answer(status: int, code: str = "", *, method: str = "GET", kind: type[Exception] = obe.GenericError) -> Exception:
    body = f"<Error><Code>{code}</Code><Message>CANARY</Message></Error>" if code else ""
    return kind(
        f"Generic S3 error: Error performing {method} {SERVICE}/bucket/key?X-Amz-Signature=CANARY in 4ms - Server "
        f"returned non-2xx status code: {status} Words: {body}\n\nDebug source:\n..."
    )


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (404, "NoSuchKey", Kind.MISSING, "no such object"),
        (404, "BlobNotFound", Kind.MISSING, "no such object"),
        (404, "NoSuchBucket", Kind.DENIED, "no such bucket"),
        (404, "ContainerNotFound", Kind.DENIED, "no such bucket"),
        (404, "", Kind.DENIED, "no such bucket"),
        (404, "SomethingElse", Kind.DENIED, "no such bucket"),
        (403, "InvalidAccessKeyId", Kind.DENIED, "does not know this access key"),
        (404, "XAdminUserNotFound", Kind.DENIED, "does not know this access key"),
        (403, "SignatureDoesNotMatch", Kind.DENIED, "secret key does not belong to the key id"),
        (400, "ExpiredToken", Kind.DENIED, "session token"),
        (400, "InvalidToken", Kind.DENIED, "session token"),
        (403, "RequestTimeTooSkewed", Kind.DENIED, "clock of this machine"),
        (403, "AccessDenied", Kind.DENIED, "permissions"),
        (403, "", Kind.DENIED, "permissions"),
        (401, "", Kind.DENIED, "permissions"),
        (400, "AuthorizationHeaderMalformed", Kind.DENIED, "region"),
        (301, "PermanentRedirect", Kind.DENIED, "region"),
        (400, "Whatever", Kind.DENIED, "refuses the request"),
        (412, "PreconditionFailed", Kind.EXISTS, "taken"),
        (409, "BlobAlreadyExists", Kind.EXISTS, "taken"),
        (409, "ConditionalRequestConflict", Kind.CONFLICT, "another writer"),
        (409, "ObjectParentIsFile", Kind.DENIED, "in the way"),
        (416, "InvalidRange", Kind.BEYOND, "behind the object's end"),
        (507, "", Kind.FULL, "no room"),
        (403, "QuotaExceeded", Kind.FULL, "no room"),
        (501, "NotImplemented", Kind.DENIED, "does not know this request"),
        (501, "", Kind.DENIED, "does not know this request"),
        (503, "SlowDown", Kind.SILENT, "overloaded"),
        (429, "", Kind.SILENT, "overloaded"),
        (500, "InternalError", Kind.SILENT, "failed inside"),
        (502, "", Kind.SILENT, "failed inside"),
        (400, "RequestTimeout", Kind.SILENT, "in vain"),
    ],
)
def test_an_answer_has_one_cause_and_only_status_and_code_are_repeated(status: int, code: str, kind: Kind, words: str):
    cause = cause_of(_answer(status, code), endpoint=SERVICE)

    assert kind is cause.kind
    assert words in cause.advice
    assert f"status {status}{' ' if code else ''}{code}" == cause.reason


def test_without_a_code_an_answer_about_one_object_means_the_object():
    cause = cause_of(_answer(404, method="HEAD", kind=FileNotFoundError), endpoint=SERVICE)

    assert Kind.MISSING is cause.kind


def test_an_unknown_code_never_means_that_an_object_is_missing():
    """Servers of all kinds answer 404 to unknown keys or buckets, and a run must not begin anew because of it."""
    cause = cause_of(_answer(404, "SomethingElse", kind=FileNotFoundError), endpoint=SERVICE)

    assert Kind.DENIED is cause.kind


def test_a_code_may_stand_in_json():
    error = obe.GenericError('status code: 404 Not Found: {"error": {"code": "NoSuchBucket"}}')

    assert "status 404 NoSuchBucket" == cause_of(error, endpoint=SERVICE).reason


@pytest.mark.parametrize(
    ("debug", "kind", "words"),
    [
        ("InvalidCertificate(UnknownIssuer)", Kind.DENIED, "caFile"),
        ("InvalidCertificate(NotValidForNameContext)", Kind.DENIED, "caFile"),
        ("kind: Other, error: InvalidMessage(InvalidContentType)", Kind.DENIED, "speaks no TLS"),
        ('ConnectError("dns error", ...)', Kind.SILENT, "does not resolve"),
        ("Os { code: 111, kind: ConnectionRefused }", Kind.SILENT, "check that the service runs"),
        ("kind: Timeout", Kind.SILENT, "no answer in time"),
        ("hyper::Error(IncompleteMessage)", Kind.SILENT, "broke off"),
        ("something new", Kind.SILENT, "no answer from the store"),
    ],
)
def test_a_failure_on_the_way_has_one_cause(debug: str, kind: Kind, words: str):
    first = f"Generic S3 error: Error performing GET {SERVICE}/bucket/key?sig=CANARY in 4ms - HTTP error"

    cause = cause_of(obe.GenericError(f"{first}\n\nDebug source:\n{debug}"), endpoint=SERVICE)

    assert (kind, True) == (cause.kind, words in cause.advice)
    assert "CANARY" not in cause.reason


def test_a_request_for_credentials_that_fails_is_a_lack_of_credentials():
    error = obe.GenericError(
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 9ms - Server returned "
        "non-2xx status code: 403 Forbidden: CANARY"
    )

    cause = cause_of(error, endpoint=SERVICE)

    assert Kind.DENIED is cause.kind
    assert "no credentials" in cause.advice
    assert "CANARY" not in cause.reason


@pytest.mark.parametrize(
    ("raised", "words"),
    [("InvalidConfig: the folder is gone", "the folder is gone"), ("KeyError: 'CANARY'", "could not be read")],
)
def test_the_words_of_a_provider_of_credentials_are_told_when_they_are_ours(raised: str, words: str):
    error = obe.UnauthenticatedError(
        f"The operation lacked valid authentication credentials for path External AWS credential provider: {raised}"
    )

    cause = cause_of(error, endpoint=SERVICE)

    assert (Kind.DENIED, words) == (cause.kind, cause.advice.removeprefix("the credentials "))


# --- what a store makes of them ---------------------------------------------------------------------------------------


class _Answers:
    """Raises what is prepared for each request, then lets them through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, *errors: Exception) -> None:
        self.errors, self.asked = list(errors), []
        self._real = getattr(obstore, name)
        monkeypatch.setattr(obstore, name, self)

    def __call__(self, backend: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(backend)
        if self.errors:
            raise self.errors.pop(0)
        return self._real(backend, *args, **kwargs)


def _bucket(**changes: Any) -> Store:
    memory = MemoryStore()
    backends = Backends(memory, changes.pop("creating", memory), SERVICE, ("hunter2",))
    return Store(backends, address="s3://bucket", **changes)


def test_a_conditional_creation_goes_to_the_client_that_repeats_nothing(monkeypatch: pytest.MonkeyPatch):
    creating = MemoryStore()
    store, answers = _bucket(creating=creating), _Answers(monkeypatch, "put")

    store.put_if_absent("a", b"1")
    store.put("b", b"2")

    assert [True, False] == [asked is creating for asked in answers.asked]


def test_a_creation_that_met_another_one_is_repeated(monkeypatch: pytest.MonkeyPatch):
    store = _bucket()
    answers = _Answers(monkeypatch, "put", *[_answer(409, "ConditionalRequestConflict")] * 2)

    store.put_if_absent("a", b"1")

    assert 3 == len(answers.asked)
    assert b"1" == store.get("a")


def test_a_creation_that_always_meets_another_one_is_an_outage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_trainer.store.objects._CONFLICT_PAUSES_S", (0.0, 0.0))
    answers = _Answers(monkeypatch, "put", *[_answer(409, "OperationAborted")] * 9)

    with pytest.raises(StorageUnavailable, match="again and again"):
        _bucket().put_if_absent("a", b"1")
    assert 3 == len(answers.asked)


def test_a_taken_key_is_told_from_a_conflict(monkeypatch: pytest.MonkeyPatch):
    _Answers(monkeypatch, "put", _answer(412, "PreconditionFailed", kind=obe.AlreadyExistsError))

    with pytest.raises(AlreadyExists):
        _bucket().put_if_absent("a", b"1")


def test_a_store_that_knows_no_conditions_is_refused_by_the_probe_and_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    store = _bucket()
    _Answers(monkeypatch, "put", _answer(501, "NotImplemented"))

    with pytest.raises(StorageDenied, match="allow_unfenced"):
        probe_fence(store, allow_unfenced=False)
    assert not store.fenced


def test_a_refused_request_is_repeated_once_with_new_credentials(monkeypatch: pytest.MonkeyPatch):
    fresh = MemoryStore()
    obstore.put(fresh, "a", b"with new keys")
    store = _bucket(reopen=lambda: Backends(fresh, fresh, SERVICE, ()))
    _Answers(monkeypatch, "get", _answer(403, "ExpiredToken"))

    assert b"with new keys" == store.get("a")


def test_with_the_same_credentials_a_refusal_stands(monkeypatch: pytest.MonkeyPatch):
    asked = []
    store = _bucket(reopen=lambda: asked.append("again"))
    answers = _Answers(monkeypatch, "get", *[_answer(403, "AccessDenied")] * 2)

    with pytest.raises(StorageDenied):
        store.get("a")
    assert (1, ["again"]) == (len(answers.asked), asked)


def test_many_refused_at_once_open_new_clients_once():
    fresh, opened = MemoryStore(), []
    obstore.put(fresh, "a", b"x")
    start = threading.Barrier(8)

    def reopen() -> Backends:
        opened.append(1)
        return Backends(fresh, fresh, SERVICE, ())

    store = _bucket(reopen=reopen)
    old = store._backends

    def renew() -> None:
        start.wait()
        assert store._renewed(old)

    threads = [threading.Thread(target=renew) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [1] == opened


def test_a_missing_object_asks_for_no_credentials(monkeypatch: pytest.MonkeyPatch):
    store = _bucket(reopen=lambda: pytest.fail("asked"))
    _Answers(monkeypatch, "get", _answer(404, "NoSuchKey", kind=FileNotFoundError))

    with pytest.raises(NotFound):
        store.get("a")


def test_a_known_secret_is_masked_and_the_servers_words_do_not_hang_on(monkeypatch: pytest.MonkeyPatch):
    _Answers(monkeypatch, "get", obe.GenericError("odd words with hunter2 in them"))

    with pytest.raises(StorageUnavailable) as error:
        _bucket().get("a")
    assert "odd words with *** in them" in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_range_behind_the_end_is_empty(monkeypatch: pytest.MonkeyPatch):
    _Answers(monkeypatch, "get_range", _answer(416, "InvalidRange"))

    assert b"" == bytes(_bucket().get_range("a", 10, 5))


def test_a_missing_object_and_a_missing_bucket_are_told_apart_where_the_answer_has_no_body(
    monkeypatch: pytest.MonkeyPatch,
):
    _Answers(monkeypatch, "head", _answer(404, method="HEAD", kind=FileNotFoundError))
    _Answers(monkeypatch, "get_range", _answer(404, "NoSuchBucket", kind=FileNotFoundError))

    with pytest.raises(StorageDenied, match="no such bucket") as error:
        _bucket().head("a")
    assert StorageDenied is type(error.value)


def test_deleting_what_is_gone_is_no_error_and_a_missing_bucket_is(monkeypatch: pytest.MonkeyPatch):
    _Answers(
        monkeypatch,
        "delete",
        _answer(404, "NoSuchKey", kind=FileNotFoundError),
        _answer(404, "NoSuchBucket", kind=FileNotFoundError),
    )

    _bucket().delete(["a"])
    with pytest.raises(StorageDenied, match="no such bucket"):
        _bucket().delete(["a"])
