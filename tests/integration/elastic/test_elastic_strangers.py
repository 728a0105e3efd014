"""Whoever can reach the coordinator's port and does not know the token."""

import contextlib
import json
import random
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from elastic_site import Group

from sam3ft_api.messages import Hello, Refused, decode_from_coordinator, encode

HELD = 300
"""Connections that a stranger holds open at a time; many times what the coordinator keeps."""


def stranger(group: Group, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection((group.ports["host"], group.ports["port"]), timeout=10)
    connection.settimeout(10)
    with contextlib.suppress(ConnectionError):
        connection.sendall(data)
    return connection


def answer(connection: socket.socket) -> bytes:
    """Everything that the coordinator says until it ends the connection."""
    heard = b""
    with connection, contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            heard += data
    return heard


def descriptors(group: Group) -> int:
    assert group.coordinator is not None
    return sum(1 for _ in Path(f"/proc/{group.coordinator.pid}/fd").iterdir())


def run(group: Group) -> None:
    group.start_coordinator("--max-nodes", "4", "--silence-s", "10")  # a crowd beside a busy machine is no silence
    group.start(0, 1, 2)
    group.wait_formed(0, 1, 2)
    group.wait_steps()


def check_undisturbed(group: Group) -> None:
    group.wait_steps()
    assert group.rounds() == 1
    assert group.lost_steps() == 0
    assert [node["name"] for node in group.progress()["nodes"]] == ["node-0", "node-1", "node-2"]


def test_whoever_does_not_know_the_token_is_refused_and_garbage_is_not_answered(group: Group):
    run(group)
    fields = {"node": "node-9", "slot": 9, "instance": "x", "started_unix_s": 0.0, "attempt": 1, "addr": "127.0.0.1"}
    refused = answer(stranger(group, encode(Hello(token="not-the-token-of-it", **fields))))  # noqa: S106 - it is wrong
    noise = random.Random(0)
    heard = [
        answer(stranger(group, data))
        for data in (
            *(noise.randbytes(length) + b"\n" for length in (1, 100, 10_000)),
            b"{" * 100_000 + b"\n",
            b"[" * 400_000,
            b"GET /progress HTTP/1.1\r\n\r\n",
            json.dumps({"type": "verdict", "code": 11, "v": 1}).encode() + b"\n",
            b"\x80\x04\x95" + b"cos\nsystem\n(S'true'\ntR." + b"\n",
            b'{"type": "hb", "seq": 1e400}\n',
        )
    ]

    assert decode_from_coordinator(refused) == Refused(reason="the token is not this attempt's")
    said = {decode_from_coordinator(line).type for line in b"".join(heard).splitlines()}
    assert said <= {"refused"}
    check_undisturbed(group)


def flood(group: Group, count: int, enough: Callable[[], bool]) -> int:
    """Open connections, say nothing or half a line, and hold many of them; return how many there were."""
    held: list[socket.socket] = []
    for opened in range(count):
        held.append(stranger(group, b'{"type": "hel' if opened % 2 else b""))
        if len(held) > HELD:
            held.pop(0).close()
        if enough():
            break
    for connection in held:
        connection.close()
    return opened + 1


def check_flood(group: Group, count: int) -> None:
    run(group)
    before, most = descriptors(group), 0
    opened: list[int] = []
    ending = threading.Event()
    crowd = threading.Thread(target=lambda: opened.append(flood(group, count, ending.is_set)))
    crowd.start()
    while crowd.is_alive():
        most = max(most, descriptors(group))
        crowd.join(0.05)
    assert opened == [count]
    check_undisturbed(group)
    assert most - before < 2048  # those kept, and those accepted but not yet looked at, half of what it may open
    # A launcher that comes while strangers hold every place is let in.
    ending.clear()
    crowd = threading.Thread(target=lambda: opened.append(flood(group, 10**9, ending.is_set)))
    crowd.start()
    try:
        group.start(3)
        group.wait_formed(0, 1, 2, 3)
    finally:
        ending.set()
        crowd.join()
    group.wait_steps()
    print(f"{count} connections: at most {most - before} at a time; {opened[1]} more while a node joined")


def check_with_descriptors(group: Group, count: int) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft > HELD + 100, f"this test holds {HELD} connections, and the shell allows {soft} descriptors: ulimit -n"
    check_flood(group, count)


def test_thousands_of_connections_do_not_disturb_a_run(group: Group):
    check_with_descriptors(group, 3_000)


@pytest.mark.soak
def test_ten_thousand_connections_do_not_disturb_a_run(group: Group):
    check_with_descriptors(group, 10_000)
