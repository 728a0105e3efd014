"""The launcher's command line."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import TypeAdapter, ValidationError

from sam3ft_api import limits
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.messages import HostAddress, NodeName
from sam3ft_trainer.run.launcher.budget import Budget

WORKER_MODULE = "sam3ft_trainer.run.worker"


@dataclass(frozen=True, slots=True)
class Options:
    """What the launcher was told; docs/elastic.md explains each.

    Attributes:
        config: the config document.
        work_dir: folder of this node.
        processes: workers on this node.
        coordinator: host and port.
        node: name of this node.
        slot: its place in the run.
        attempt: number of the attempt.
        address: where other nodes reach this one's workers.
        budget: the failure policy.
        min_nodes: so many others go on without this node when it has spent its restarts; None when it ends them all.
        eviction_grace_s: from the request to stop until the workers are killed.
        termination_log: where the last word goes, None for nowhere.
        warm_spares: keep one more process per worker that has the libraries loaded.
        command: what each worker runs; empty for the trainer.
    """

    config: Path
    work_dir: Path
    processes: int
    coordinator: tuple[str, int]
    node: str
    slot: int
    attempt: int
    address: str
    budget: Budget
    min_nodes: int | None
    eviction_grace_s: float
    termination_log: Path | None
    warm_spares: bool
    command: tuple[str, ...]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with the code of a wrong setting instead of argparse's 2."""
        self.exit(int(ExitCode.INVALID_CONFIG), f"launcher: {message}; --help lists the arguments\n")


def parse_options(argv: list[str]) -> Options:
    """Return the options; a wrong one ends the process with code 10 and a message."""
    budget = Budget()
    parser = _Parser(prog="python -m sam3ft_trainer.run.launcher", description="Run the workers of one node.")
    add = parser.add_argument
    add("--config", type=Path, required=True, help="the config document, JSON")
    add("--work-dir", type=Path, required=True, help="folder for logs, progress and scratch files; made if missing")
    add("--nproc", type=_Count(1, limits.MAX_GPUS_PER_NODE), default=1, help="worker processes on this node")
    add("--coordinator", type=_host_and_port, required=True, metavar="HOST:PORT")
    add("--node", type=_Checked(TypeAdapter(NodeName)), default="node-0", help="name of this node, unique in the run")
    add("--slot", type=_Count(0, limits.MAX_NODES - 1), default=0, help="place of this node in the run")
    add("--attempt", type=_Count(1, limits.MAX_ATTEMPT), default=1)
    add(
        "--address",
        type=_Checked(TypeAdapter(HostAddress)),
        default="127.0.0.1",
        help="where other nodes reach this one",
    )
    add("--max-restarts", type=_Count(0, 1000), default=budget.max_restarts)
    add("--restart-window-s", type=_seconds, default=budget.window_s)
    add("--max-without-progress", type=_Count(1, 1000), default=budget.max_without_progress)
    add(
        "--min-nodes",
        type=_Count(1, limits.MAX_NODES),
        help="when this node has spent its restarts, so many others go on without it; default: it ends the run",
    )
    add("--eviction-grace-s", type=_seconds, default=110.0, help="from a stop request until workers are killed")
    add("--termination-log", type=Path, help="where the last word is written, JSON")
    add("--warm-spares", action="store_true", help="one more process per worker, ready to start: faster, more memory")
    add("command", nargs="*", help=f"what each worker runs; default: python -m {WORKER_MODULE}")
    values = parser.parse_args(argv)
    return Options(
        config=values.config.absolute(),
        work_dir=values.work_dir.absolute(),
        processes=values.nproc,
        coordinator=values.coordinator,
        node=values.node,
        slot=values.slot,
        attempt=values.attempt,
        address=values.address,
        budget=Budget(values.max_restarts, values.restart_window_s, values.max_without_progress),
        min_nodes=values.min_nodes,
        eviction_grace_s=values.eviction_grace_s,
        termination_log=values.termination_log,
        warm_spares=values.warm_spares,
        command=tuple(values.command),
    )


@dataclass(frozen=True, slots=True)
class _Count:
    low: int
    high: int

    def __call__(self, text: str) -> int:
        if not text.isdecimal() or not self.low <= int(text) <= self.high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {self.low} to {self.high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class _Checked:
    adapter: TypeAdapter[str]

    def __call__(self, text: str) -> str:
        try:
            return self.adapter.validate_python(text)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error.errors()[0]['msg']}") from None


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return value


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT with a port from 1 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)
