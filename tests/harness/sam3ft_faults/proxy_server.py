"""The proxy's process: a port for clients, and orders as JSON lines on standard input.

    python -m sam3ft_faults.proxy_server HOST:PORT [SEED] [LISTEN_PORT]

Each order is one line, each answer is one line: {"do": "rules", "rules": [...]}, {"do": "refuse"}, {"do": "accept"},
{"do": "drop"}, {"do": "account"}. The first line it writes is {"port": N}. It ends with its standard input.
"""

import asyncio
import json
import sys
from asyncio import StreamReader, StreamWriter
from typing import Any

from sam3ft_faults.deciding import Decider
from sam3ft_faults.exchange import Connection
from sam3ft_faults.http_parts import HEAD_LIMIT
from sam3ft_faults.rules import Rule


class Proxy:
    """Listens on one loopback port for as long as it is not told to refuse."""

    def __init__(self, target: tuple[str, int], *, seed: int, port: int = 0) -> None:
        """Stand for the server at `target`; port 0 takes a free one and keeps it."""
        self.port = port
        self.decider = Decider(seed=seed)
        self._target = target
        self._server: asyncio.Server | None = None
        self._connections: dict[Connection, asyncio.Task[None]] = {}

    async def accept(self) -> None:
        """Listen; nothing happens when it does so already."""
        if self._server is None:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port, limit=HEAD_LIMIT)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Stop listening, so that the kernel refuses, and reset every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.drop()

    async def drop(self) -> None:
        """Reset every connection."""
        for connection, task in list(self._connections.items()):
            connection.close(by_reset=True)
            task.cancel()

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order and return the answer.

        Raises:
            ValueError, TypeError, KeyError: it is no order.
        """
        match order["do"]:
            case "rules":
                self.decider.set_rules([Rule.from_json(fields) for fields in order["rules"]])
            case "accept":
                await self.accept()
            case "refuse":
                await self.refuse()
            case "drop":
                await self.drop()
            case "account":
                return self.decider.account()
            case unknown:
                raise ValueError(f"order {unknown!r} is unknown")
        return {}

    async def _take(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = Connection(reader, writer, target=self._target, decider=self.decider)
        task = asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        try:
            await connection.run()
        except asyncio.CancelledError:
            connection.close(by_reset=True)
        finally:
            del self._connections[connection]


async def serve(target: tuple[str, int], *, seed: int, port: int) -> None:
    """Serve until standard input ends."""
    proxy = Proxy(target, seed=seed, port=port)
    await proxy.accept()
    _say({"port": proxy.port})
    orders = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        try:
            answer = await proxy.obey(json.loads(line))
        except (ValueError, TypeError, KeyError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        _say(answer)
    await proxy.refuse()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    host, _, number = sys.argv[1].rpartition(":")
    asyncio.run(
        serve(
            (host, int(number)),
            seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0,
            port=int(sys.argv[3]) if len(sys.argv) > 3 else 0,
        )
    )
