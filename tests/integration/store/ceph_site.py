"""A Ceph cluster of one node, in memory: a monitor, an object store daemon and its S3 gateway, on loopback."""

import os
import secrets
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boto3
from ports import HOST, free_port
from store_sites import Site, process

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
INSTALL = "tools/components/system.sh"
_UP_S = 90.0


@contextmanager
def rgw_site(folder: Path) -> Iterator[Site]:
    """Bring the cluster up, make a user and a bucket, and take it down again.

    Raises:
        RuntimeError: a program is missing, or the cluster does not come up within 90 s.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise RuntimeError(f"the Ceph gateway cannot be started, {', '.join(missing)} are missing; run {INSTALL}")
    with ExitStack() as stack:
        port, access_key, secret_key = _cluster(folder, stack)
        endpoint = f"http://{HOST}:{port}"
        _make_bucket(endpoint, access_key, secret_key, "runs")
        canary = f"canary{secrets.token_hex(12)}"
        yield Site(
            "rgw",
            "s3://runs",
            "s3://missing",
            folder,
            {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key},
            {
                "endpoint": endpoint,
                "addressing": "path",
                "allowHttp": True,
                "allowNetworks": ["loopback"],
                "retries": 1,
            },
            secrets=(access_key, secret_key, canary),
            wrong={"key": {"AWS_ACCESS_KEY_ID": canary}, "secret": {"AWS_SECRET_ACCESS_KEY": canary}},
        )


def _cluster(folder: Path, stack: ExitStack) -> tuple[int, str, str]:
    """Start monitor, store and gateway; returns the gateway's port and a user's keys."""
    monitor_port, gateway_port = free_port(), free_port()
    fsid = str(uuid.uuid4())
    configuration = folder / "ceph.conf"
    configuration.write_text(_CONFIGURATION.format(fsid=fsid, host=HOST, port=monitor_port, folder=folder))
    environment = {**os.environ, "CEPH_CONF": str(configuration)}
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()

    monmap = str(folder / "monmap")
    address = f"[v1:{HOST}:{monitor_port}]"
    _run(environment, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
    _run(environment, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
    stack.enter_context(process(["ceph-mon", "-f", "-i", "a"], monitor_port, folder / "mon.log", environment))
    osd = str(uuid.uuid4())
    _ask(environment, "osd", "new", osd, "0")
    _run(environment, "ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd)
    _ask(environment, "osd", "crush", "add", "osd.0", "1.0", "host=here", "root=default")
    stack.enter_context(process(["ceph-osd", "-f", "-i", "0"], monitor_port, folder / "osd.log", environment))
    give_up_at = time.monotonic() + _UP_S
    while "1 up" not in _ask(environment, "osd", "stat"):
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"the object store daemon does not come up:\n{(folder / 'osd.log').read_text()[-2000:]}")
        time.sleep(0.5)
    access_key, secret_key = f"test{secrets.token_hex(8)}", secrets.token_hex(20)
    user = ["--uid", "test", "--display-name", "test", "--access-key", access_key, "--secret-key", secret_key]
    _again(environment, "radosgw-admin", "user", "create", *user)
    gateway = [
        "radosgw",
        "-f",
        "-n",
        "client.rgw",
        "--rgw-frontends",
        f"beast endpoint={HOST}:{gateway_port} tcp_nodelay=1",
    ]
    stack.enter_context(process(gateway, gateway_port, folder / "rgw.log", environment))
    return gateway_port, access_key, secret_key


_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v1:{host}:{port}]
mon initial members = a
public addr = {host}
cluster addr = {host}
auth cluster required = none
auth service required = none
auth client required = none
log file = /dev/null
log to stderr = true
err to stderr = true
run dir = {folder}
admin socket = {folder}/$name.asok
crash dir = {folder}
mon data = {folder}/mon
mon allow pool delete = true
mon data avail warn = 1
mon data avail crit = 1
mon warn on pool no redundancy = false
mon allow pool size one = true
osd data = {folder}/osd
osd objectstore = memstore
osd class update on start = false
osd crush update on start = false
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
ms bind msgr2 = false
rgw data = {folder}/rgw
rgw gc obj min wait = 2
rgw gc processor period = 5
"""


def _run(environment: Mapping[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_UP_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stdout}{done.stderr}"[-2000:])
    return done.stdout


def _ask(environment: Mapping[str, str], *command: str) -> str:
    return _again(environment, "ceph", *command)


def _again(environment: Mapping[str, str], *command: str) -> str:
    """Run a command that asks the monitor, which now and then calls a client's cluster a wrong one, out of the blue."""
    give_up_at = time.monotonic() + _UP_S
    while True:
        try:
            return _run(environment, *command)
        except RuntimeError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.5)


def _make_bucket(endpoint: str, access_key: str, secret_key: str, name: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=name)
