"""A real SLURM site of some nodes on this machine: munged, slurmctld and a slurmd per node, in one folder.

The daemons run as whoever starts them, in the foreground, at ports of the loopback interface, and die with the process
that started them. Nothing outside the folder is read or written, so that several sites live side by side. Two
partitions share the nodes: jobs of `high` preempt those of `low`, which go back into the queue.

What differs from a site of one's dreams, and why: a requeued job may start again after 6 s instead of two minutes
(credentials live 5 s), decisions are made at once instead of once a minute, processes are tracked by their parents
(no cgroups without root), and cores are counted as the machine has them.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accounting import Accounting
from ports import HOST, free_port
from programs import Program

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
INSTALL = "make components"
READY_S = 60.0
ANSWER_S = 60.0
LOW, HIGH = "low", "high"
_SBIN = "/usr/sbin:/sbin"
_LONGEST_SOCKET = 100
_ENDED_S = 15.0


class SlurmMissing(RuntimeError):
    """SLURM's programs are not installed; the message names the command that installs them."""


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What a site is like.

    Attributes:
        nodes: how many; named n1, n2, ...
        cpus: cores that each node claims to have.
        memory_mib: memory that each node claims to have.
        gpus: that each node claims to have; there are none.
        max_minutes: longest time that a partition gives to a job.
        grace_s: seconds between the first signal and the end of a job that is preempted.
        forget_s: seconds after which the controller forgets a job that has ended (MinJobAge).
        user_signal: a preempted job gets the signal that it has asked for, beside SIGTERM.
        kill_wait_s: seconds between SIGTERM and SIGKILL at the time limit and when a job is cancelled.
        accounting: with slurmdbd and a MariaDB server of its own, so that `sacct` answers.
        extra: further lines of slurm.conf.
    """

    nodes: int = 2
    cpus: int = 2
    memory_mib: int = 2000
    gpus: int = 0
    max_minutes: int = 60
    grace_s: int = 30
    forget_s: int = 600
    user_signal: bool = True
    kill_wait_s: int = 30
    accounting: bool = False
    extra: tuple[str, ...] = ()


def missing_programs() -> list[str]:
    """Return the names of SLURM's programs that this machine does not have."""
    path = f"{os.environ.get('PATH', '')}:{_SBIN}"
    return [name for name in NEEDED if shutil.which(name, path=path) is None]


class SlurmSite:
    """The daemons, and what a person with a shell on the login node can do."""

    def __init__(self, folder: Path, settings: SiteSettings | None = None) -> None:
        """Prepare; `start` begins.

        Args:
            folder: exists, is private to this user, and has a short path: it holds a socket.
            settings: what the site is like.

        Raises:
            SlurmMissing: SLURM is not installed.
        """
        if missing := missing_programs():
            raise SlurmMissing(f"SLURM is not installed ({', '.join(missing)} missing); `{INSTALL}` installs it")
        self.settings = settings or SiteSettings()
        self.folder = folder
        self._host = socket.gethostname().partition(".")[0]
        self._conf = folder / "slurm.conf"
        self._socket = folder / "munge.sock"
        if len(str(self._socket)) > _LONGEST_SOCKET:
            raise ValueError(f"{folder}: too long for a socket in it; choose a shorter path")
        self._path = f"{os.environ.get('PATH', '')}:{_SBIN}"
        self.munge = Program("munged", self._munged(), folder / "munged.log")
        self.accounting = Accounting(folder, self._socket) if self.settings.accounting else None
        self.controller = self._program("slurmctld", ["slurmctld", "-D", "-f", str(self._conf)])
        self.nodes = {
            name: self._program(f"slurmd-{name}", ["slurmd", "-D", "-N", name, "-f", str(self._conf)])
            for name in self.node_names
        }

    @property
    def node_names(self) -> list[str]:
        """Names of the nodes."""
        return [f"n{number + 1}" for number in range(self.settings.nodes)]

    @property
    def environ(self) -> Mapping[str, str]:
        """Environment of a person on the login node."""
        return {**os.environ, "SLURM_CONF": str(self._conf), "PATH": self._path}

    def start(self) -> None:
        """Start the daemons; the site is usable when this returns.

        Raises:
            RuntimeError: a daemon ended, or the nodes are not idle within a minute.
        """
        for name in ("state", "log", *(f"spool/{node}" for node in self.node_names)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key = self.folder / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))
        self._conf.write_text(self._config())
        if self.settings.gpus:
            self._pretend_gpus(self.settings.gpus)
        self.munge.start()
        if self.accounting is not None:
            self.accounting.start()
        for program in (self.controller, *self.nodes.values()):
            program.start()
        self.wait_idle()

    def wait_idle(self) -> None:
        """Wait until every node is idle.

        Raises:
            RuntimeError: a daemon ended, or the nodes are not idle within a minute.
        """
        give_up_s = time.monotonic() + READY_S
        while self.ask(["sinfo", "-h", "-p", LOW, "-o", "%D %T"], check=False).strip() != f"{len(self.nodes)} idle":
            for program in (self.munge, self.controller, *self.nodes.values()):
                program.raise_if_ended()
            if time.monotonic() > give_up_s:
                raise RuntimeError(f"the nodes are not idle:\n{self.controller.log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Cancel every job, wait for the ends, stop the daemons; what is left of jobs is killed."""
        if self.controller.is_running:
            self.ask(["scancel", "--quiet", "--user", getpass.getuser()], check=False)
            give_up_s = time.monotonic() + _ENDED_S
            while self.job_processes() and time.monotonic() < give_up_s:
                time.sleep(0.2)
        for program in (*self.nodes.values(), self.controller):
            program.stop()
        if self.accounting is not None:
            self.accounting.stop()
        self.munge.stop()
        for pid in self.job_processes():
            _kill(pid)

    def ask(self, command: Sequence[str], *, check: bool = True, within_s: float = ANSWER_S) -> str:
        """Run one of SLURM's programs and return what it printed.

        Raises:
            RuntimeError: it did not end with 0, where `check` is set; the message holds its words.
        """
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=within_s, check=False, cwd=self.folder
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def job_processes(self) -> list[int]:
        """Return the process ids of jobs of this site, their steps' managers with them."""
        mark = f"SLURM_CONF={self._conf}".encode()
        daemons = {program.pid for program in (self.controller, *self.nodes.values()) if program.is_running}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) in daemons | {os.getpid()}:
                continue
            try:
                environ = (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in environ)
            if mark in environ and (in_job or command.startswith(b"slurmstepd")):
                found.append(int(entry.name))
        return found

    def _pretend_gpus(self, count: int) -> None:
        """Name a file for each GPU, as a site names its device nodes; SLURM looks whether they exist."""
        for number in range(count):
            (self.folder / f"gpu{number}").touch()
        files = f"{self.folder}/gpu[0-{count - 1}]"
        (self.folder / "gres.conf").write_text(f"Name=gpu Count={count} File={files}\n")

    def _munged(self) -> list[str]:
        names = {"key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.out", "seed-file": "munge.seed"}
        return [
            *("munged", "--foreground", "--force", f"--socket={self._socket}"),
            *(f"--{option}={self.folder / name}" for option, name in names.items()),
        ]

    def _program(self, name: str, command: Sequence[str]) -> Program:
        # `env` is replaced by the program, so that signals reach it: a slurmd hands its environment on to jobs.
        return Program(
            name, ["env", f"SLURM_CONF={self._conf}", f"PATH={self._path}", *command], self.folder / f"{name}.log"
        )

    def _config(self) -> str:
        settings, folder, user = self.settings, self.folder, getpass.getuser()
        ports = [free_port() for _ in range(1 + settings.nodes)]
        lines = [
            *("ClusterName=t", f"SlurmctldHost={self._host}({HOST})", f"SlurmUser={user}", f"SlurmdUser={user}"),
            f"SlurmctldPort={ports[0]}",
            *("AuthType=auth/munge", f"AuthInfo=socket={self._socket},cred_expire=5", "CredType=cred/munge"),
            *(f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool/%n"),
            *(f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/slurmd.%n.pid"),
            *("ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "JobAcctGatherType=jobacct_gather/none"),
            *("SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", "MpiDefault=none"),
            "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0",
            *("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", "ReturnToService=2"),
            *(f"KillWait={settings.kill_wait_s}", f"MinJobAge={settings.forget_s}"),
            *(["SlurmctldParameters=preempt_send_user_signal"] if settings.user_signal else []),
            *(["GresTypes=gpu"] if settings.gpus else []),
            *settings.extra,
        ]
        lines += self.accounting.config() if self.accounting else ["AccountingStorageType=accounting_storage/none"]
        for name, port in zip(self.node_names, ports[1:], strict=True):
            lines.append(
                f"NodeName={name} NodeHostname={self._host} NodeAddr={HOST} Port={port} CPUs={settings.cpus} "
                f"CoresPerSocket={settings.cpus} RealMemory={settings.memory_mib} State=UNKNOWN"
                + (f" Gres=gpu:{settings.gpus}" if settings.gpus else "")
            )
        common = f"Nodes=ALL MaxTime={settings.max_minutes} State=UP"
        lines += [
            f"PartitionName={LOW} {common} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={settings.grace_s}",
            f"PartitionName={HIGH} {common} Default=NO PriorityTier=10 PreemptMode=OFF",
        ]
        return "\n".join(lines) + "\n"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
