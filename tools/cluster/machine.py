"""What real nodes need of this machine, and the names and addresses they take on it."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from pathlib import Path

PROGRAMS = ("containerd", "ctr", "runc", "nft", "iptables", "ip", "conntrack", "unshare", "nsenter")
CNI = Path("/usr/lib/cni")
INSTALL = "tools/components/system.sh"
CGROUPS = Path("/sys/fs/cgroup")
PRIVATE = ("/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd")
"""Folders that each node has for itself."""
LEAST_FREE_BYTES = 4 << 30
_LOCK = Path("/tmp/sam3ft-test-networks.lock")  # noqa: S108 - all users of the machine share its addresses
_END_S = 10.0
_SECOND_BYTES = range(200, 250)


class MachineUnfit(RuntimeError):
    """This machine cannot have real nodes; the message says what is missing and how to get it."""


def require_machine(folder: Path) -> None:
    """Check rights, programs and disk before anything is started.

    Raises:
        MachineUnfit: something is missing.
    """
    if os.geteuid() != 0:
        raise MachineUnfit("real nodes need root (namespaces, mounts, cgroups); run this as root, or use played nodes")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    missing += [str(CNI / name) for name in ("bridge", "host-local", "loopback") if not (CNI / name).exists()]
    if missing:
        raise MachineUnfit(f"real nodes need {', '.join(missing)}; run {INSTALL}")
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        raise MachineUnfit("pods of one node cannot reach each other by Service; run modprobe br_netfilter")
    if (free := shutil.disk_usage(folder).free) < LEAST_FREE_BYTES:
        raise MachineUnfit(
            f"{folder} has {free >> 20} MiB free, and real nodes need {LEAST_FREE_BYTES >> 20}; "
            "remove something, or set TMPDIR or XDG_CACHE_HOME to a larger disk"
        )


def tag_of(folder: Path) -> str:
    """Return what distinguishes the names of a cluster from those of another one on this machine."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]


def call(*command: str) -> str:
    """Return what a program prints.

    Raises:
        RuntimeError: it ended with another status than 0; the message holds what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Wires:
    """The network of a cluster: a switch on this machine, to which every node is plugged by its `eth0`."""

    tag: str
    block: IPv4Network

    @property
    def switch(self) -> str:
        """Name of the bridge on this machine."""
        return f"sft-{self.tag}"

    @property
    def host(self) -> str:
        """This machine's address, at which API server, DNS and stores are reached from nodes and pods."""
        return str(self.block.network_address + 1)

    def plug(self, number: int) -> str:
        """Return the name of this machine's end of a node's wire."""
        return f"{self.switch}-{number}"

    def address(self, number: int) -> str:
        """Return the address of a node."""
        return str(self.block.network_address + 10 + number)

    def pods(self, number: int) -> IPv4Network:
        """Return the subnet of a node's pods."""
        return list(self.block.subnets(new_prefix=24))[1 + number]


def lay_wires(folder: Path) -> Wires:
    """Make the switch of a cluster, at addresses that nothing on this machine uses."""
    with _locked():
        tag = tag_of(folder)
        used = [ip_network(route["dst"]) for route in json.loads(call("ip", "-json", "route")) if "/" in route["dst"]]
        blocks = (IPv4Network(f"10.{byte}.0.0/16") for byte in _SECOND_BYTES)
        free = next((block for block in blocks if not any(block.overlaps(route) for route in used)), None)
        if free is None:
            raise MachineUnfit(f"every network from 10.{_SECOND_BYTES[0]}.0.0/16 on is in use; see ip route")
        wires = Wires(tag, free)
        call("ip", "link", "add", wires.switch, "type", "bridge")
        call("ip", "address", "add", f"{wires.host}/24", "dev", wires.switch)
        call("ip", "link", "set", wires.switch, "up")
    return wires


def sweep(folder: Path) -> None:
    """Remove what a cluster of this folder has left on the machine, also after its keeper was killed.

    Processes, mounts and rules of nodes live in namespaces that end with the keeper; the switch and cgroups do not.
    """
    tag = tag_of(folder)
    for link in json.loads(call("ip", "-json", "link")):
        if re.fullmatch(rf"sft-{tag}(-\d+)?", link["ifname"]):
            subprocess.run(["ip", "link", "delete", link["ifname"]], check=False, capture_output=True)
    for top in sorted({*CGROUPS.glob(f"sft-{tag}-*"), *CGROUPS.glob(f"*/sft-{tag}-*")}):
        for group in sorted((path for path in [top, *top.rglob("*")] if path.is_dir()), reverse=True):
            _remove_cgroup(group)


def _remove_cgroup(group: Path) -> None:
    """Remove a control group; its last processes may still be ending."""
    give_up_at = time.monotonic() + _END_S
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def make_cgroup(name: str) -> None:
    """Make a control group in every hierarchy of version 1, or in the one of version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        (CGROUPS / name).mkdir(exist_ok=True)
        offered = (CGROUPS / "cgroup.controllers").read_text().split()
        (CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in offered))
        return
    for hierarchy in CGROUPS.iterdir():
        if hierarchy.is_dir() and not hierarchy.is_symlink() and (hierarchy / "cgroup.procs").exists():
            (hierarchy / name).mkdir(exist_ok=True)
    for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, and nothing can be put there before
        (CGROUPS / "cpuset" / name / file).write_text((CGROUPS / "cpuset" / file).read_text())


@contextmanager
def _locked() -> Iterator[None]:
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
