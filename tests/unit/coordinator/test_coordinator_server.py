"""The coordinator's sockets on the loopback: who is let in, and what a viewer gets."""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api import limits
from sam3ft_api.messages import Heartbeat, Hello, Pong, Ready, Refused, Round, decode_from_coordinator, encode
from sam3ft_launch.coordinator.__main__ import main, parse_address
from sam3ft_launch.coordinator.roster import Close
from sam3ft_launch.coordinator.server import Address, Server, serve_until
from sam3ft_launch.coordinator.settings import Settings

TOKEN = "0123456789abcdef"  # noqa: S105 - guards nothing
HERE = Address("127.0.0.1", 0)
OPENED: list[asyncio.StreamWriter] = []


def hello(**changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "node": "n0",
        "slot": 0,
        "instance": "a",
        "started_unix_s": 0.0,
        "attempt": 1,
        "token": TOKEN,
        "addr": "127.0.0.1",
        **changes,
    }
    return Hello(**fields)


def serving(conversation: Callable[[Server, Address, Address], Awaitable[None]], **settings: Any) -> None:
    """Run a conversation against a listening server."""

    async def run() -> None:
        server = Server(Settings(**settings), token=TOKEN)
        launchers, viewers = await server.listen(HERE, HERE)
        await serve_until(lambda: asyncio.wait_for(conversation(server, launchers, viewers), 10), server)
        for writer in OPENED:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        OPENED.clear()

    asyncio.run(run())


async def say(address: Address, *lines: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    OPENED.append(writer)
    writer.write(b"".join(lines))
    await writer.drain()
    return reader, writer


def test_a_launcher_joins_and_is_told_the_round():
    heard: list[Any] = []

    async def talk(_: Server, launchers: Address, __: Address) -> None:
        reader, writer = await say(launchers, encode(hello()), encode(Ready(addr="127.0.0.1", port=9)))
        heard.append(decode_from_coordinator(await reader.readline()))
        writer.write(encode(Heartbeat(seq=4)))
        heard.append(decode_from_coordinator(await reader.readline()))

    serving(talk)

    assert isinstance(heard[0], Round)
    assert heard[1] == Pong(seq=4, round=1)


def test_a_coordinator_that_ends_tells_nobody_to_stop():
    heard: list[bytes] = []

    async def talk(server: Server, launchers: Address, _: Address) -> None:
        readers = []
        for slot, name in enumerate(("a", "b")):
            greeting = hello(node=name, slot=slot, instance=name)
            reader, _writer = await say(launchers, encode(greeting), encode(Ready(addr="127.0.0.1", port=9)))
            readers.append(reader)
        for reader in readers:
            assert isinstance(decode_from_coordinator(await reader.readline()), Round)
        await server.close()
        heard.extend([await reader.read() for reader in readers])

    serving(talk, nodes=2, max_nodes=2)

    assert [b"", b""] == heard


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (encode(hello(token="another-token-of-16")), "the token is not this attempt's"),  # noqa: S106 - guards nothing
        (encode(hello(attempt=2)), "this coordinator serves attempt 1, not 2"),
        (encode(Heartbeat(seq=1)), "the first message of a connection is hello"),
    ],
)
def test_a_stranger_is_refused_with_a_reason_and_changes_nothing(line: bytes, reason: str):
    heard: list[Any] = []

    async def talk(server: Server, launchers: Address, _: Address) -> None:
        reader, _writer = await say(launchers, line)
        heard.append(decode_from_coordinator(await reader.readline()))
        heard.append(await reader.read())
        heard.append(dict(server.rounds.nodes))

    serving(talk)

    assert heard == [Refused(reason=reason), b"", {}]


def test_a_launcher_of_another_version_is_told_so():
    heard: list[Any] = []
    newer = encode(hello()).replace(b'"slot":0', b'"slot":0,"of_a_later_version":1')

    async def talk(server: Server, launchers: Address, _: Address) -> None:
        reader, _writer = await say(launchers, newer)
        heard.append(decode_from_coordinator(await reader.readline()))
        heard.append(await reader.read())
        heard.append(dict(server.rounds.nodes))

    serving(talk)

    assert isinstance(heard[0], Refused)
    assert "another version" in heard[0].reason
    assert [b"", {}] == heard[1:]


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\n", b"{}\n", b"\xff\xfe\n", b"x" * (limits.MAX_LINE_BYTES + 2)])
def test_what_is_no_message_ends_the_connection(line: bytes):
    heard: list[bytes] = []

    async def talk(_: Server, launchers: Address, __: Address) -> None:
        reader, writer = await say(launchers, line)
        try:
            heard.append(await reader.read())
        except ConnectionResetError:
            heard.append(b"")
        writer.close()

    serving(talk)

    assert heard == [b""]


def test_a_line_that_never_ends_and_a_silent_stranger_are_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_launch.coordinator.server._HELLO_WITHIN_S", 0.2)
    heard: list[bytes] = []

    async def talk(_: Server, launchers: Address, __: Address) -> None:
        reader, _writer = await say(launchers, b"{")
        heard.append(await reader.read())

    serving(talk)

    assert heard == [b""]


def test_of_more_strangers_than_allowed_the_oldest_is_cut_off_and_a_launcher_gets_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_launch.coordinator.server._MAX_STRANGERS", 2)
    heard: list[Any] = []

    async def talk(_: Server, launchers: Address, __: Address) -> None:
        held = [await say(launchers) for _ in range(2)]
        await asyncio.sleep(0.1)
        reader, _writer = await say(launchers, encode(hello()), encode(Heartbeat(seq=4)))
        heard.append(decode_from_coordinator(await asyncio.wait_for(reader.readline(), 1)))
        with contextlib.suppress(ConnectionResetError):
            heard.append(await asyncio.wait_for(held[0][0].read(), 1))
        heard.append(held[1][0].at_eof())

    serving(talk)

    assert [message for message in heard if message != b""] == [Pong(seq=4), False]


def test_a_peer_that_does_not_take_its_last_words_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_launch.coordinator.server._FLUSH_WITHIN_S", 0.2)
    left: list[int] = []

    async def talk(server: Server, launchers: Address, _: Address) -> None:
        await say(launchers, encode(hello()))  # never reads
        await asyncio.sleep(0.1)
        (peer,) = server._writers
        server._writers[peer].write(b"x" * 50_000_000)
        server._do([Close(peer, "left")])
        left.append(len(server._conversations))
        await asyncio.sleep(0.5)
        left.append(len(server._conversations))

    serving(talk)

    assert left == [1, 0]


def test_a_closed_connection_is_a_lost_node():
    seen: list[set[str]] = []

    async def talk(server: Server, launchers: Address, _: Address) -> None:
        _reader, writer = await say(launchers, encode(hello()))
        await asyncio.sleep(0.1)
        seen.append(set(server.rounds.nodes))
        writer.close()
        await asyncio.sleep(0.1)
        seen.append(set(server.rounds.nodes))

    serving(talk)

    assert seen == [{"n0"}, set()]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /progress HTTP/1.1", "200 OK"),
        ("GET /healthz HTTP/1.1", "200 OK"),
        ("GET /other HTTP/1.1", "404 Not Found"),
        ("POST /progress HTTP/1.1", "405 Method Not Allowed"),
        ("GET", "404 Not Found"),
    ],
)
def test_viewers_get_progress_and_health_and_nothing_else(request_line: str, status: str):
    heard: list[str] = []

    async def talk(_: Server, __: Address, viewers: Address) -> None:
        reader, _writer = await say(viewers, request_line.encode() + b"\r\nHost: x\r\n\r\n")
        heard.append((await reader.read()).decode())

    serving(talk)

    head, _, body = heard[0].partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}\r\n")
    assert f"Content-Length: {len(body)}" in head
    if request_line == "GET /progress HTTP/1.1":
        assert json.loads(body)["state"] == "waiting"


def test_a_viewer_with_endless_headers_is_cut_off():
    heard: list[bytes] = []

    async def talk(_: Server, __: Address, viewers: Address) -> None:
        reader, _writer = await say(viewers, b"GET /progress HTTP/1.1\r\n" + b"x" * 100_000)
        try:
            heard.append(await reader.read())
        except ConnectionResetError:
            heard.append(b"")

    serving(talk)

    assert heard == [b""]


@pytest.mark.parametrize("text", ["host", "host:", ":1", "h:70000", "h:x"])
def test_an_address_needs_a_host_and_a_port(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="HOST:PORT"):
        parse_address(text)


def test_a_missing_token_or_wrong_counts_end_with_10(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("SAM3FT_TOKEN", raising=False)
    missing = main(["--listen", "127.0.0.1:0"])
    wrong = main(["--listen", "127.0.0.1:0", "--nodes", "2", "--min-nodes", "3"])

    assert (missing, wrong) == (10, 10)
    said = capsys.readouterr().err
    assert "SAM3FT_TOKEN has 0 characters" in said
    assert "min-nodes 3, nodes 2" in said


def test_the_coordinator_imports_neither_torch_nor_numpy(tmp_path: Path):
    program = (
        "import pathlib, sys, sam3ft_launch.coordinator.__main__;"
        "heavy = {'torch', 'numpy', 'sam3ft_trainer'} & set(sys.modules);"
        "status = pathlib.Path('/proc/self/status').read_text();"
        "print(sorted(heavy), int(status.partition('VmRSS:')[2].split()[0]) // 1024)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    heavy, mebibytes = answer.stdout.rsplit(maxsplit=1)

    assert heavy == "[]"
    assert int(mebibytes) < 64
