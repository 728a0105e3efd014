"""The stores that the suite talks to: a folder, and real servers on loopback, each with the settings that reach it."""

import base64
import os
import secrets
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.request import Request, urlopen

import trustme
from gcs_gate import gate
from ports import HOST, free_port
from s3_server import S3Server

from components import binary
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.store.access import Access, run_access
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.uri import open_store

_START_S = 60.0
Wrong = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Site:
    """One store, as a user's settings describe it.

    Attributes:
        name: kind of store.
        bucket: address of a bucket or folder that is there.
        missing: address of one that is not.
        variables: environment that reaches it.
        profile: lines of its storage profile.
        folder: where the file of profiles goes.
        secrets: what must never be shown.
        wrong: by the cause that they provoke, variables that replace those above.
        process: variables that the process itself needs.
    """

    name: str
    bucket: str
    missing: str
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, object] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    wrong: Wrong = field(default_factory=dict)
    process: Mapping[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        """Variables, and the file of profiles, written now."""
        file = self.folder / f"storage-{uuid.uuid4().hex[:8]}.yaml"
        lines = [f"    {key}: {_yaml(value)}" for key, value in self.profile.items()]
        file.write_text("\n".join(["profiles:", "  default:", *(lines or ["    anonymous: false"])]) + "\n")
        return {**self.variables, "SAM3FT_STORAGE_PROFILES": str(file)}

    def access(self) -> Access:
        """How a run reaches it."""
        return run_access(StorageConfig(), self.environ)

    def open(self, prefix: str = "", *, create: bool = True) -> Store:
        """Open a prefix."""
        return self.open_at("/".join(filter(None, [self.bucket, prefix])), create=create)

    def open_at(self, address: str, *, create: bool = False) -> Store:
        """Open an address by these settings."""
        return open_store(address, create=create, access=self.access())

    def fresh(self) -> Store:
        """Open a prefix that nobody has used."""
        return self.open(uuid.uuid4().hex[:12])

    def but(self, *, variables: Mapping[str, str] | None = None, **profile: object) -> "Site":
        """The same with other settings."""
        return replace(self, variables={**self.variables, **(variables or {})}, profile={**self.profile, **profile})


@contextmanager
def folder_site(folder: Path) -> Iterator[Site]:
    """A folder of this machine."""
    bucket = folder / "bucket"
    bucket.mkdir()
    yield Site("folder", str(bucket), str(folder / "missing"), folder)


@contextmanager
def s3_site(folder: Path) -> Iterator[Site]:
    """S3, the bucket in the path."""
    with S3Server(_made(folder / "buckets")) as server:
        yield s3_settings("s3", server, folder)


@contextmanager
def s3_virtual_site(folder: Path) -> Iterator[Site]:
    """S3, the bucket in the host's name. No name server knows these names: the server serves as its own proxy."""
    port = free_port()
    options = ["--virtual-domain", f"s3.test:{port}"]
    with S3Server(_made(folder / "buckets"), port=port, options=options) as server:
        site = s3_settings("s3-virtual", server, folder).but(endpoint=f"http://s3.test:{port}", addressing="virtual")
        yield replace(site, process={"HTTP_PROXY": server.endpoint, "http_proxy": server.endpoint})


@contextmanager
def s3_tls_site(folder: Path) -> Iterator[Site]:
    """S3 with TLS, its certificate signed by an authority that nobody knows."""
    authority = trustme.CA()
    certificate = authority.issue_cert(HOST)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(folder / "cert.pem"), append=True)
    options = ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]
    with S3Server(_made(folder / "buckets"), options=options, tls=True) as server:
        site = s3_settings("s3-tls", server, folder)
        yield site.but(caFile=str(folder / "authority.pem"), allowHttp=False)


def s3_settings(name: str, server: S3Server, folder: Path) -> Site:
    """Return the settings that reach an S3 server."""
    canary = f"canary{secrets.token_hex(12)}"
    profile = {
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "addressing": "path",
        "allowHttp": True,
        "allowNetworks": ["loopback"],
        "retries": 1,
    }
    return Site(
        name,
        f"s3://{server.create_bucket('runs')}",
        "s3://missing",
        folder,
        server.environment(),
        profile,
        secrets=(server.access_key, server.secret_key, canary),
        wrong={
            "key": {"AWS_ACCESS_KEY_ID": canary},
            "secret": {"AWS_SECRET_ACCESS_KEY": canary},
            "token": {"AWS_SESSION_TOKEN": canary},
        },
    )


@contextmanager
def gs_site(folder: Path) -> Iterator[Site]:
    """An imitation of Google's storage, behind a gate; it checks no credentials."""
    port = free_port()
    options = ["-scheme", "http", "-host", HOST, "-port", str(port), "-backend", "memory"]
    options += ["-public-host", f"{HOST}:{port}"]
    server = process([str(binary("fake-gcs-server")), *options], port, folder / "gcs.log")
    with server, gate(HOST, port) as gate_port:
        ask = Request(f"http://{HOST}:{port}/storage/v1/b?project=test", data=b'{"name": "runs"}', method="POST")
        ask.add_header("Content-Type", "application/json")
        urlopen(ask, timeout=10).close()  # noqa: S310 - loopback
        token = f"canary{secrets.token_hex(12)}"
        profile = {
            "endpoint": f"http://{HOST}:{gate_port}",
            "allowHttp": True,
            "allowNetworks": ["loopback"],
            "retries": 1,
        }
        yield Site("gs", "gs://runs", "gs://missing", folder, {"GOOGLE_BEARER_TOKEN": token}, profile, secrets=(token,))


@contextmanager
def az_site(folder: Path) -> Iterator[Site]:
    """An imitation of Azure's storage, with an account and a key of its own."""
    port, account = free_port(), "testaccount"
    key = base64.b64encode(secrets.token_bytes(48)).decode()
    canary = base64.b64encode(secrets.token_bytes(48)).decode()
    options = [
        "--blobPort",
        str(port),
        "--blobHost",
        HOST,
        "--silent",
        "--inMemoryPersistence",
    ]
    options += ["--disableTelemetry", "--skipApiVersionCheck", "--disableProductStyleUrl"]
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{account}:{key}"}
    with process([str(binary("azurite", "azurite-blob")), *options], port, folder / "az.log", environment):
        make_container(f"http://{HOST}:{port}/{account}", account, key, "runs")
        profile = {
            "endpoint": f"http://{HOST}:{port}",
            "addressing": "path",
            "allowHttp": True,
            "allowNetworks": ["loopback"],
            "retries": 1,
        }
        variables = {"AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": key}
        yield Site(
            "az",
            "az://runs",
            "az://missing",
            folder,
            variables,
            profile,
            secrets=(key, canary),
            wrong={"secret": {"AZURE_STORAGE_ACCOUNT_KEY": canary}},
        )


def make_container(url: str, account: str, key: str, name: str) -> None:
    """Create a container with a request signed by the account's key."""
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415
    from email.utils import formatdate  # noqa: PLC0415

    date, version = formatdate(usegmt=True), "2021-08-06"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
    # The path begins with the account, and the canonical resource with the account again.
    signed = f"PUT\n\n\n\n\n\n\n\n\n\n\n\n{headers}/{account}/{account}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()).decode()
    ask = Request(f"{url}/{name}?restype=container", method="PUT", data=b"")  # noqa: S310 - loopback
    for header, value in (("x-ms-date", date), ("x-ms-version", version), ("Content-Type", "")):
        ask.add_header(header, value)
    ask.add_header("Authorization", f"SharedKey {account}:{signature}")
    urlopen(ask, timeout=10).close()  # noqa: S310 - loopback


@contextmanager
def process(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a server until its port answers and the context is left; ended by its process id."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            give_up_at = time.monotonic() + _START_S
            while not _answers(port):
                if started.poll() is not None or time.monotonic() > give_up_at:
                    raise RuntimeError(f"{command[0]} does not come up:\n{log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield
        finally:
            started.send_signal(signal.SIGKILL)
            started.wait()


SITES: dict[str, Callable[[Path], "contextmanager[Iterator[Site]]"]] = {  # type: ignore[type-arg]
    "folder": folder_site,
    "s3": s3_site,
    "s3-virtual": s3_virtual_site,
    "s3-tls": s3_tls_site,
    "gs": gs_site,
    "az": az_site,
}
"""Every store of the quick suite: (folder for its files) -> a context with its settings."""


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
