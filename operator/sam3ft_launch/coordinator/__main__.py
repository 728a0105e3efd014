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
        "--last-to-leave",
        action="store_true",
        help="SIGTERM and SIGUSR2, which launchers beside it get as well, end it when the last of them has gone",
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
    asked = asyncio.Event() if arguments.last_to_leave else stop
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set if number == signal.SIGINT else asked.set)
    if arguments.last_to_leave:
        loop.add_signal_handler(signal.SIGUSR2, asked.set)
    _log.info("launchers connect to %s:%d", launchers.host, launchers.port)
    _log.info("http://%s:%d/progress shows the run", viewers.host, viewers.port)
    if arguments.port_file is not None:
        write_port_file(arguments.port_file, launchers, viewers)
    leaving = asyncio.create_task(_leave_last(asked, stop, server))
    try:
        await serve_until(stop.wait, server)
    finally:
        leaving.cancel()


async def _leave_last(asked: asyncio.Event, stop: asyncio.Event, server: Server) -> None:
    """Stop once it has been asked for and no launcher is there."""
    await asked.wait()
    await server.deserted.wait()
    stop.set()


def main(argv: list[str] | None = None) -> int:
    """Run the coordinator and return its exit code: 0 after a signal that stops it, 10 for wrong settings."""
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s coordinator: %(message)s", stream=sys.stderr)
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
