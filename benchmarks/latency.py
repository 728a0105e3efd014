"""A proxy that lets every request wait: what lies between a machine and a store far away.

    python -m benchmarks.latency TARGET_HOST:PORT MILLISECONDS [CORE]

Prints its own port and runs until its standard input closes. Bytes from the client wait for the given time, each piece
by itself, so that requests on different connections wait at the same time; answers pass at once.
"""

import asyncio
import contextlib
import os
import sys

PIECE = 1 << 18


async def serve(host: str, port: int, delay_s: float) -> None:
    """Pass connections on until the program that started this one goes away."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(host, port, limit=PIECE)
            await asyncio.gather(_pass(reader, far_writer, delay_s), _pass(far_reader, writer, 0.0))

    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=PIECE)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE):
            if delay_s:
                await asyncio.sleep(delay_s)
            writer.write(piece)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        os.sched_setaffinity(0, {int(sys.argv[3])})
    target_host, _, target_port = sys.argv[1].partition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(target_host, int(target_port), float(sys.argv[2]) / 1e3))
    os._exit(0)
