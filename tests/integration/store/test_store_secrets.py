"""No credential may reach a text: canaries are used in every way that fails, and all that is said is searched."""

import logging
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from http_bench import Asked, Reply, told_server
from store_sites import Site

from sam3ft_api.errors import Sam3ftError
from sam3ft_trainer.commands.edge import guarded
from sam3ft_trainer.store.objects import Store, probe_fence, with_patience
from sam3ft_trainer.store.survey import survey

SECRET = "CanaryOfTheSecretKey/0123456789+abcdef"  # noqa: S105 - never one
KEY_ID = "CANARYOFTHEKEYID0123"
TOKEN = "CanaryOfTheSessionToken//0123456789=="  # noqa: S105 - never one
CANARIES = (SECRET, KEY_ID, TOKEN)
KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}


def _echo(asked: Asked) -> str:
    """Everything that the client sent, as careless servers and proxies put it into their answers."""
    return f"{asked.method} {asked.path} {asked.headers} {SECRET} {KEY_ID} {TOKEN}"


REPLIES: dict[str, Callable[[Asked], Reply]] = {
    "403 with the request in it": lambda asked: Reply(403, f"<Error><Code>Odd</Code><M>{_echo(asked)}</M></Error>"),
    "400 with the request in it": lambda asked: Reply(400, _echo(asked)),
    "404 with the request in it": lambda asked: Reply(404, _echo(asked)),
    "409 with the request in it": lambda asked: Reply(409, _echo(asked)),
    "500 with the request in it": lambda asked: Reply(500, _echo(asked)),
    "a code that is the token": lambda _: Reply(403, f"<Error><Code>{TOKEN}</Code></Error>"),
    "a list that is no XML": lambda asked: Reply(200, _echo(asked)),
    "a list of keys": lambda asked: Reply(200, f"<ListBucketResult><Key>{_echo(asked)}</Key></ListBucketResult>"),
    "a redirect": lambda _: Reply(307, headers={"Location": f"http://127.0.0.1:1/{TOKEN}?X-Amz-Signature={SECRET}"}),
    "a broken answer": lambda _: Reply(None),
}


class Said:
    """All that was said while a test ran."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def error(self, error: BaseException) -> None:
        self.texts += [str(error), repr(error), *traceback.format_exception(error)]
        self.texts += [str(vars(error)), str(error.args)]

    def anything(self, *texts: object) -> None:
        self.texts += map(str, texts)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """Collect, and search at the end."""
    caplog.set_level(logging.DEBUG)
    collected = Said()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield collected
    collected.anything(*warned, *(f"{record.__dict__} {record.getMessage()}" for record in caplog.records))
    collected.anything(*capfd.readouterr())
    everything = "\n".join(collected.texts)

    assert len(collected.texts) > 10
    assert [] == [canary for canary in CANARIES if canary in everything]


def _site(endpoint: str, folder: Path, variables: Mapping[str, str] = KEYS) -> Site:
    profile = {"endpoint": endpoint, "allowHttp": True, "allowNetworks": ["loopback"], "retries": 0}
    return Site("told", "s3://bucket", "s3://missing", folder, variables, profile)


def _everything(store: Store, said: Said) -> None:
    """Ask for all that a store can do, and keep what it says."""
    for ask in (
        lambda: store.get("a"),
        lambda: store.get_with_info("a"),
        lambda: store.get_range("a", 0, 1),
        lambda: store.head("a"),
        lambda: store.put("a", b"x"),
        lambda: store.put("a", bytes(9 << 20)),
        lambda: store.put_if_absent("a", b"x"),
        lambda: store.list_objects("a"),
        lambda: store.delete(["a"]),
        lambda: probe_fence(store, allow_unfenced=False),
        lambda: with_patience(lambda: store.get("a"), outage_s=0.0, denied_is_outage=True),
    ):
        try:
            ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not tell
            said.error(error)
    said.anything(repr(store), repr(store._backends), repr(store._backend), str(vars(store)))


@pytest.mark.parametrize("reply", list(REPLIES))
def test_a_server_that_repeats_what_it_was_sent_is_not_quoted(said: Said, tmp_path: Path, reply: str):
    with told_server(REPLIES[reply]) as told:
        site = _site(told.url, tmp_path)
        _everything(site.open(), said)
        said.anything(repr(site.access()), str(site.access()))
        found = survey(site.bucket, site.access())
        said.anything(found, found.reason)

        assert told.asked


@pytest.mark.parametrize("name", ["s3", "s3-tls"])
@pytest.mark.parametrize("right", [(), ("AWS_ACCESS_KEY_ID",), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")])
def test_a_real_server_is_not_quoted(said: Said, start_site: Callable[[str], Site], name: str, right: tuple[str, ...]):
    site = start_site(name).but(retries=0)
    wrong = {key: value for key, value in KEYS.items() if key not in right}

    _everything(site.but(variables=wrong).open("x"), said)

    everything = "\n".join(said.texts)
    assert [] == [secret for secret in site.secrets if secret in everything]


@pytest.mark.parametrize("name", ["s3", "s3-tls", "s3-virtual", "gs", "az"])
def test_a_missing_bucket_quotes_no_valid_key(
    said: Said, start_site: Callable[[str], Site], name: str, monkeypatch: pytest.MonkeyPatch
):
    site = start_site(name).but(retries=0)
    for variable, value in site.process.items():
        monkeypatch.setenv(variable, value)

    _everything(site.open_at(f"{site.missing}/x"), said)

    everything = "\n".join(said.texts)
    assert [] == [secret for secret in site.secrets if secret in everything]


@pytest.mark.parametrize(
    ("address", "variables"),
    [
        ("s3://bucket", {**KEYS, "AWS_ENDPOINT_URL": f"https://{KEY_ID}:{SECRET}@host"}),
        ("s3://bucket", {**KEYS, "AWS_ENDPOINT_URL": f"https://host/?token={TOKEN}"}),
        ("s3://bucket", {**KEYS, "AWS_ENDPOINT_URL": "https://169.254.169.254"}),
        ("s3://bucket", {**KEYS, "AWS_REGION": SECRET}),
        ("s3://bucket", {"AWS_SECRET_ACCESS_KEY": SECRET}),
        ("s3://bucket", {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SESSION_TOKEN": TOKEN}),
        (f"s3://{KEY_ID}:{SECRET}@bucket/x", KEYS),
        ("gs://bucket", {"GOOGLE_SERVICE_ACCOUNT_KEY": SECRET}),
        ("gs://bucket", {"GOOGLE_SERVICE_ACCOUNT_KEY": f'{{"private_key": "{SECRET}"}}'}),
        (
            "gs://bucket",
            {
                "GOOGLE_SERVICE_ACCOUNT_KEY": (
                    f'{{"client_email": "a", "private_key_id": "b", "private_key": "{SECRET}"}}'
                )
            },
        ),
        ("gs://bucket", {"GOOGLE_APPLICATION_CREDENTIALS": f'{{"private_key": "{SECRET}"}}'}),
        ("az://c", {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": SECRET + "!"}),
        ("az://c", {"AZURE_STORAGE_ACCOUNT_NAME": SECRET, "AZURE_STORAGE_ACCOUNT_KEY": SECRET}),
        ("az://c", {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_SAS_TOKEN": f"?{SECRET}"}),
    ],
)
def test_settings_that_are_refused_are_not_quoted(said: Said, tmp_path: Path, address: str, variables: dict[str, str]):
    site = Site("refused", address, "", tmp_path, variables)
    said.anything(*[""] * 11)

    try:
        store = site.open_at(address)
    except Sam3ftError as error:
        said.error(error)
    else:
        said.anything(repr(store), repr(store._backends))


def test_a_secret_that_vanishes_while_it_is_used_is_named_by_its_place(said: Said, tmp_path: Path):
    folder = tmp_path / "secret"
    folder.mkdir()
    for name, value in KEYS.items():
        (folder / name).write_text(value)
    with told_server(lambda asked: Reply(403, _echo(asked))) as told:
        store = _site(told.url, tmp_path, {"SAM3FT_CREDENTIALS_DIR": str(folder)}).open()
        (folder / "AWS_SECRET_ACCESS_KEY").unlink()
        _everything(store, said)

        assert [] == told.asked
        assert any(f"the credentials folder {folder} no longer has" in text for text in said.texts)


def test_the_command_line_quotes_nothing(said: Said, tmp_path: Path, start_site: Callable[[str], Site]):
    site = start_site("s3")
    environ = {**os.environ, **site.but(variables=KEYS).environ, "RUST_LOG": "trace", "PYTHONWARNINGS": "always"}
    for words in (
        ["doctor", f"{site.bucket}/x"],
        ["doctor", f"{site.bucket}/x", "-o", "json"],
        ["doctor", f"{site.bucket}/x", "--profile", "unknown"],
        ["fetch", f"{site.bucket}/x", str(tmp_path / "copy")],
        ["fetch", str(tmp_path), f"{site.bucket}/x"],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "sam3ft_trainer", *words],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        said.anything(ended.stdout, ended.stderr, *ended.args)

        assert ended.returncode in (10, 12, 13), ended.stderr


def test_an_internal_error_of_a_verb_shows_no_answer_of_a_server(said: Said, tmp_path: Path):
    """The process edge prints a traceback for what is no user error: that of a store must not carry the answer."""
    with told_server(REPLIES["500 with the request in it"]) as told:
        store = _site(told.url, tmp_path).open()

        def verb(_arguments: object) -> int:
            try:
                store.get("a")
            except Sam3ftError as error:
                raise RuntimeError("a defect") from error
            return 0

        assert 1 == guarded(verb, object())  # type: ignore[arg-type]
        said.anything(*[""] * 11)


def test_a_store_is_not_pickled_with_its_keys(said: Said, tmp_path: Path):
    store = _site("http://127.0.0.1:1", tmp_path).open()
    said.anything(*[""] * 11)

    with pytest.raises((TypeError, AttributeError)) as error:
        pickle.dumps(store)
    said.error(error.value)
