"""Nodes in network namespaces of their own, joined by a bridge: what a partition needs. Nothing outside is touched."""

import ctypes
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tools_here import need_tool

T = TypeVar("T")
_PREFIX = "sam3ft-test"
_CLONE_NEWNET = 0x40000000
_NAMESPACES = Path("/var/run/netns")


class Network:
    """A hub with a bridge, and one namespace for each node; all names are this object's alone.

    Attributes:
        hub_address: address of the hub, where the coordinator listens.
    """

    hub_address = "10.213.0.1"

    def __init__(self, nodes: int) -> None:
        _remove_leftovers()
        self._name = f"{_PREFIX}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._made: list[str] = []
        self._make(self.hub)
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        ip("-n", self.hub, "address", "add", f"{self.hub_address}/24", "dev", "br0")
        ip("-n", self.hub, "link", "set", "br0", "up")
        for slot in range(nodes):
            self._make(self.node(slot))
            ip("-n", self.hub, "link", "add", f"n{slot}", "type", "veth", "peer", "eth0", "netns", self.node(slot))
            ip("-n", self.hub, "link", "set", f"n{slot}", "master", "br0", "up")
            ip("-n", self.node(slot), "address", "add", f"{self.address(slot)}/24", "dev", "eth0")
            ip("-n", self.node(slot), "link", "set", "eth0", "up")

    @property
    def hub(self) -> str:
        return f"{self._name}-hub"

    def node(self, slot: int) -> str:
        return f"{self._name}-n{slot}"

    def address(self, slot: int) -> str:
        return f"10.213.0.{10 + slot}"

    def cut(self, slot: int) -> None:
        """Drop every frame of a node, silently: no reset, no carrier loss, as when a switch fails."""
        _run("bridge", "-n", self.hub, "link", "set", "dev", f"n{slot}", "state", "0")

    def mend(self, slot: int) -> None:
        _run("bridge", "-n", self.hub, "link", "set", "dev", f"n{slot}", "state", "3")

    def inside_hub(self, call: Callable[[], T]) -> T:
        return inside(self.hub, call)

    def close(self) -> None:
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def _make(self, name: str) -> None:
        ip("netns", "add", name)
        self._made.append(name)
        ip("-n", name, "link", "set", "lo", "up")


def ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*argv: str) -> None:
    answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{' '.join(argv)}: {answer.stderr.strip()}"


def inside(name: str, call: Callable[[], T]) -> T:
    """Return what `call` returns on a thread inside a namespace; sockets that it opens stay there."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with (_NAMESPACES / name).open("rb") as namespace:
                assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) == 0
            answers.append(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def need_namespaces() -> None:
    """Fail in CI, and skip elsewhere, where namespaces cannot be made."""
    if (problem := _problem()) is not None:
        need_tool(problem)


def _problem() -> str | None:
    if shutil.which("ip") is None or shutil.which("bridge") is None:
        return "the programs ip and bridge are missing, which make networks for this test: apt-get install iproute2"
    answer = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return None if answer.returncode == 0 else f"network namespaces need root: {answer.stderr.strip()}"


def _remove_leftovers() -> None:
    """Remove namespaces of test processes that were killed."""
    for path in _NAMESPACES.glob(f"{_PREFIX}-*"):
        pid = path.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
        if not Path(f"/proc/{pid}").exists():
            subprocess.run(["ip", "netns", "delete", path.name], check=False)
