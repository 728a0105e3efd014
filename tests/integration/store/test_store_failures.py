"""Failures on the way to a real server, and what they mean: refused, gone, or worth another try."""

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from http_bench import Reply, Told, told_server
from ports import HOST, free_port
from s3_server import S3Server
from store_sites import Site, s3_settings

from sam3ft_api.errors import InvalidConfig, StorageDenied, StorageUnavailable
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.store.access import data_access
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.objects import AlreadyExists, Store
from sam3ft_trainer.store.uri import open_store


@pytest.fixture
def s3(start_site: Callable[[str], Site]) -> Site:
    return start_site("s3").but(retries=0)


@pytest.fixture
def s3_tls(start_site: Callable[[str], Site]) -> Site:
    return start_site("s3-tls").but(retries=0)


def _told_site(told: Told, folder: Path, **profile: object) -> Site:
    variables = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    settings = {"endpoint": told.url, "allowHttp": True, "allowNetworks": ["loopback"], "retries": 0, **profile}
    return Site("told", "s3://bucket", "s3://missing", folder, variables, settings)


def test_a_certificate_of_an_unknown_authority_is_refused_and_the_setting_named(s3_tls: Site, s3: Site):
    unknown = Site("", s3_tls.bucket, "", s3_tls.folder, s3_tls.variables, _without(s3_tls.profile, "caFile"))

    with pytest.raises(StorageDenied, match="name its authority with caFile") as error:
        unknown.open("x").get("a")
    assert StorageDenied is type(error.value)


def test_a_certificate_for_another_name_is_refused(s3_tls: Site):
    port = str(s3_tls.profile["endpoint"]).rpartition(":")[2]

    with pytest.raises(StorageDenied, match="check the endpoint's name"):
        s3_tls.but(endpoint=f"https://localhost:{port}").open("x").get("a")


def test_tls_to_a_port_without_it_is_refused_with_advice(s3: Site):
    plain = str(s3.profile["endpoint"]).replace("http:", "https:")

    with pytest.raises(StorageDenied, match="speaks no TLS at this port"):
        s3.but(endpoint=plain).open("x").get("a")


def test_a_port_where_nothing_listens_is_an_outage(s3: Site):
    with pytest.raises(StorageUnavailable, match="check that the service runs"):
        s3.but(endpoint=f"http://{HOST}:{free_port()}").open("x").get("a")


def test_a_name_that_does_not_resolve_is_an_outage(s3: Site):
    with pytest.raises(StorageUnavailable, match="does not resolve; check its spelling"):
        s3.but(endpoint="http://no-such-host.invalid").open("x")


def test_a_server_that_says_nothing_is_an_outage_in_time(s3: Site):
    with socket.create_server((HOST, 0)) as silent:
        store = s3.but(endpoint=f"http://{HOST}:{silent.getsockname()[1]}", requestTimeoutSeconds=0.5).open("x")
        began = time.monotonic()
        with pytest.raises(StorageUnavailable, match="no answer in time"):
            store.get("a")
        assert time.monotonic() - began < 10


def test_a_wrong_region_is_named(s3: Site):
    with pytest.raises(StorageDenied, match="set region in the storage profile"):
        s3.but(region="eu-north-9").open("x").get("a")


def test_http_is_refused_unless_the_profile_allows_it(s3: Site):
    other = Site("", s3.bucket, "", s3.folder, {**s3.variables, "AWS_ENDPOINT_URL": str(s3.profile["endpoint"])})

    with pytest.raises(InvalidConfig, match=r"has no TLS; use https://, or add this line .*: allowHttp: true"):
        other.open("x")


def test_the_address_is_judged_again_at_every_opening(s3: Site, monkeypatch: pytest.MonkeyPatch):
    s3.open("x")
    inner = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: inner)

    with pytest.raises(InvalidConfig, match="link-local"):
        s3.open("x")


@pytest.mark.parametrize(
    ("reply", "expected", "words"),
    [
        (Reply(503, "<Error><Code>SlowDown</Code></Error>"), StorageUnavailable, "overloaded (status 503 SlowDown)"),
        (Reply(500), StorageUnavailable, "failed inside"),
        (
            Reply(403, "<Error><Code>RequestTimeTooSkewed</Code></Error>"),
            StorageDenied,
            "the clock of this machine differs",
        ),
        (Reply(400, "<Error><Code>ExpiredToken</Code></Error>"), StorageDenied, "renew the credentials"),
        (Reply(403, "no XML at all"), StorageDenied, "access refused; check credentials and permissions (status 403)"),
        (Reply(403, "<Error><Code>QuotaExceeded</Code></Error>"), StorageDenied, "no room left to write 5 bytes"),
        (Reply(None), StorageUnavailable, "broke off"),
        (Reply(301), StorageDenied, "the region is wrong"),
    ],
)
def test_an_answer_means_what_it_says(tmp_path: Path, reply: Reply, expected: type[Exception], words: str):
    with told_server(lambda _: reply) as told:
        with pytest.raises(expected) as error:
            _told_site(told, tmp_path).open().put("a", b"12345")
        assert words in str(error.value)


def test_a_plain_write_is_repeated_within_one_call(tmp_path: Path):
    with told_server(lambda _: Reply(503)) as told:
        with pytest.raises(StorageUnavailable):
            _told_site(told, tmp_path, retries=2).open().put("a", b"x")

        assert 3 == len(told.asked)


@pytest.mark.parametrize("reply", [Reply(503), Reply(None)])
def test_a_conditional_creation_is_never_repeated_by_the_client(tmp_path: Path, reply: Reply):
    with told_server(lambda _: reply) as told:
        with pytest.raises(StorageUnavailable):
            _told_site(told, tmp_path, retries=8).open().put_if_absent("a", b"x")

        assert [("PUT", "*")] == [(asked.method, asked.headers["if-none-match"]) for asked in told.asked]


def test_a_creation_whose_answer_was_lost_is_found_to_have_succeeded(s3: Site):
    """The request reaches the server, and its answer nobody: the log must not take its own entry for a rival's."""

    class Losing(Store):
        lost = 0

        def put_if_absent(self, key: str, data: bytes) -> None:
            super().put_if_absent(key, data)
            if key.startswith("log/") and not Losing.lost:
                Losing.lost = 1
                raise StorageUnavailable("the answer was lost")

    opened = s3.fresh()
    store = Losing(opened._backends, address=opened.address)

    assert CommitLog(store)._try_create(_Entry(), b"mine")
    with pytest.raises(AlreadyExists):
        store.put_if_absent("log/00000001.json", b"other")
    assert b"mine" == store.get("log/00000001.json")


class _Entry:
    seq = 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_leads_from_tls_to_a_server_without(tmp_path: Path, status: int):
    with told_server(lambda _: Reply(200, "secrets of the node")) as inner:
        away = Reply(status, headers={"Location": f"{inner.url}/latest/meta-data/"})
        with told_server(lambda _: away, authority=tmp_path / "authority.pem") as told:
            site = _told_site(told, tmp_path, caFile=str(tmp_path / "authority.pem"), allowHttp=False)
            with pytest.raises((StorageDenied, StorageUnavailable)):
                site.open().get("a")

        assert (1, []) == (len(told.asked), inner.asked)


def test_a_signature_is_not_sent_on_to_where_a_redirect_leads(tmp_path: Path):
    with told_server(lambda _: Reply(404)) as other:
        away = Reply(307, headers={"Location": f"{other.url.replace(HOST, 'localhost')}/a"})
        with told_server(lambda _: away) as told, pytest.raises((StorageDenied, StorageUnavailable)):
            _told_site(told, tmp_path).but(variables={"AWS_SESSION_TOKEN": "token"}).open().get("a")

        assert [True] == ["authorization" in asked.headers for asked in told.asked]
        assert [] == [asked for asked in other.asked if "authorization" in asked.headers]


def test_an_anonymous_profile_signs_nothing(tmp_path: Path):
    with told_server(lambda _: Reply(404)) as told:
        with pytest.raises(StorageDenied):
            _told_site(told, tmp_path, anonymous=True).open().get("a")

        assert [False] == ["authorization" in asked.headers for asked in told.asked]


def test_a_public_bucket_is_read_and_a_private_one_refused_without_keys(s3: Site):
    with pytest.raises(StorageDenied, match="access refused"):
        s3.but(anonymous=True).open("x").get("a")


def test_two_servers_are_used_at_once_each_with_its_own_keys(tmp_path: Path):
    for name in ("run", "data"):
        (tmp_path / name / "buckets").mkdir(parents=True)
    with S3Server(tmp_path / "run" / "buckets") as first, S3Server(tmp_path / "data" / "buckets") as second:
        run, data = s3_settings("run", first, tmp_path), s3_settings("data", second, tmp_path)
        run.open().put("a", b"of the run")
        data.open().put("a", b"of the data")

        mixed = run.but(variables={f"SAM3FT_DATA_{name}": value for name, value in data.variables.items()})
        profile = {**run.profile}
        assert b"of the run" == mixed.open().get("a")
        assert b"of the data" == _data_store(mixed.but(**{**profile, "endpoint": second.endpoint})).get("a")
        with pytest.raises(StorageDenied):
            _data_store(mixed).get("a")


def _data_store(site: Site) -> Store:
    return open_store(site.bucket, access=data_access(StorageConfig(), site.environ))


def _without(settings: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in settings.items() if key != name}
