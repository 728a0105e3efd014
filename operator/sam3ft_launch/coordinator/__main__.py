"""`python -m sam3ft_launch.coordinator`: listen, write the port file, serve until SIGTERM."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import NoReturn

from sam3ft_api import limits
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.files import write_atomically
from sam3ft_api.tokens import take_token
from sam3ft_launch.coordinator.server import Address, Server, serve_until
from sam3ft_launch.coordinator.settings import Settings

_log = logging.getLogger("sam3ft_launch.coordinator")
_DESCRIPTORS = 4 * limits.MAX_NODES
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_WATCH_EVERY_S = 0.5


def parse_address(text: str) -> Address:
    """Return `HOST:PORT` as an address; IPv6 hosts stand in brackets.

    Raises:
        argparse.ArgumentTypeError: the port is missing or no number from 0 to 65535.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with the code of a wrong setting instead of argparse's 2."""
        self.exit(int(ExitCode.INVALID_CONFIG), f"{self.prog}: {message}; --help lists the arguments\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    defaults = Settings()
    parser = _Parser(prog="python -m sam3ft_launch.coordinator", description=__doc__)
    parser.add_argument("--listen", type=parse_address, required=True, metavar="HOST:PORT", help="for launchers")
    parser.add_argument(
        "--progress-listen",
        type=parse_address,
        default=Address("127.0.0.1", 0),
        metavar="HOST:PORT",
        help="for viewers",
    )
    parser.add_argument("--port-file", type=Path, help="JSON with both ports, written once they listen")
    parser.add_argument("--nodes", type=int, default=defaults.nodes, help="nodes that the first round waits for")
    parser.add_argument("--min-nodes", type=int, default=defaults.min_nodes, help="nodes that a round needs")
    parser.add_argument("--max-nodes", type=int, help="nodes that a round takes; default: --nodes")
    parser.add_argument("--attempt", type=int, default=defaults.attempt, help="launchers of another one are refused")
    parser.add_argument("--gate-deadline-s", type=float, default=defaults.gate_deadline_s)
    parser.add_argument("--silence-s", type=float, default=defaults.silence_s)
    parser.add_argument(
        "--until-removed",
        action="store_true",
        help="end when the port file is removed, and not at SIGTERM or SIGUSR2, which launchers beside it get as well",
    )
    return parser


def write_port_file(path: Path, launchers: Address, viewers: Address) -> None:
    """Tell the starter where the ports are; readers never see half of it.

    Raises:
        OSError: the folder is missing or not writable.
    """
    content = {
        "host": launchers.host,
        "port": launchers.port,
        "progress_host": viewers.host,
        "progress_port": viewers.port,
        "pid": os.getpid(),
    }
    write_atomically(path, json.dumps(content) + "\n")


def allow_connections() -> None:
    """Take as many descriptors as the system allows this process: the usual 1,024 are fewer than a large run needs."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _DESCRIPTORS) if most >= 0 else _DESCRIPTORS, most))


async def serve(arguments: argparse.Namespace, settings: Settings, token: str) -> None:
    """Run until a signal asks to stop."""
    server = Server(settings, token=token)
    launchers, viewers = await server.listen(arguments.listen, arguments.progress_listen)
    stop = asyncio.Event()
    for number in _STOP_SIGNALS:
        if arguments.until_removed and number == signal.SIGTERM:
            continue  # ignored since the start
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _log.info("launchers connect to %s:%d", launchers.host, launchers.port)
    _log.info("http://%s:%d/progress shows the run", viewers.host, viewers.port)
    if arguments.port_file is not None:
        write_port_file(arguments.port_file, launchers, viewers)
    watching = asyncio.create_task(_watch(arguments.port_file, stop)) if arguments.until_removed else None
    try:
        await serve_until(stop.wait, server)
    finally:
        if watching is not None:
            watching.cancel()


async def _watch(path: Path, stop: asyncio.Event) -> None:
    """Set the event when the file is not there."""
    while await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - a file on a shared file system tells of no change
        await asyncio.sleep(_WATCH_EVERY_S)
    stop.set()


def main(argv: list[str] | None = None) -> int:
    """Run the coordinator and return its exit code: 0 after a signal that stops it, 10 for wrong settings."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s coordinator: %(message)s", stream=sys.stderr)
    if arguments.until_removed:
        if arguments.port_file is None:
            print("coordinator: --until-removed needs --port-file", file=sys.stderr)
            return int(ExitCode.INVALID_CONFIG)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    max_nodes = arguments.nodes if arguments.max_nodes is None else arguments.max_nodes
    allow_connections()
    try:
        settings = Settings(
            nodes=arguments.nodes,
            min_nodes=arguments.min_nodes,
            max_nodes=max_nodes,
            attempt=arguments.attempt,
            gate_deadline_s=arguments.gate_deadline_s,
            silence_s=arguments.silence_s,
        )
        asyncio.run(serve(arguments, settings, take_token(os.environ, attempt=settings.attempt)))
    except (InvalidConfig, ValueError, OSError) as error:
        print(f"coordinator: {error}", file=sys.stderr)
        return int(ExitCode.INVALID_CONFIG)
    return 0


if __name__ == "__main__":
    sys.exit(main())
