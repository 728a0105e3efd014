"""Stand-ins for coordinators: one server on two loopback addresses, one honest, one whose answer never ends."""

import asyncio
import json
import threading
import time
from types import TracebackType
from typing import Any, Self

from sam3ft_launch.kubernetes.settings import PROGRESS_PORT

STEP_S = 1.0
"""An honest run makes one step in so many seconds, so that every question has a new answer."""


class Coordinators:
    """Answers for any number of runs; nobody else of this machine may use the two addresses.

    Attributes:
        honest: address at which every answer is right and new.
        hostile: address at which every answer is garbage without an end.
        asked: questions by address.
    """

    def __init__(self, *, nodes: int, last_byte: int) -> None:
        """Prepare.

        Args:
            nodes: of every run.
            last_byte: of the addresses; two benchmarks on one machine need different ones.
        """
        self.honest, self.hostile = f"127.70.1.{last_byte}", f"127.70.2.{last_byte}"
        self.asked = {self.honest: 0, self.hostile: 0}
        self._nodes, self._begun_s = nodes, time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._run, name="coordinators", daemon=True)

    def __enter__(self) -> Self:
        """Listen at both addresses.

        Raises:
            OSError: one of them is taken.
        """
        for address in self.asked:
            server = self._loop.run_until_complete(asyncio.start_server(self._serve, address, PROGRESS_PORT))
            self._servers.append(server)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        self.asked[address] += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            if address == self.hostile:
                await self._flood(writer)
            body = json.dumps(self._progress()).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # who asks may hang up at any time
        finally:
            writer.close()

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"[" * 4096)
            await writer.drain()
            await asyncio.sleep(0.01)  # the flood is to occupy the reader, not this machine's cores

    def _progress(self) -> dict[str, Any]:
        step = int((time.monotonic() - self._begun_s) / STEP_S)
        members = [f"n{number}" for number in range(self._nodes)]
        return {
            "state": "running",
            "attempt": 1,
            "round": 1,
            "members": members,
            "nodes": [{"name": name, "slot": slot, "state": "running"} for slot, name in enumerate(members)],
            "commit_step": step // 100 * 100,
            "progress": {
                "state": "training",
                "step": step,
                "total_steps": 100_000,
                "epoch": step / 1000,
                "eta_s": (100_000 - step) * STEP_S,
                "images_per_s": 16.0,
                "loss": 0.4321,
                "checkpoint_step": step // 100 * 100,
                "world_size": self._nodes,
            },
            "failures": [],
            "verdict": None,
        }
