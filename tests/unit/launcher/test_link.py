"""The launcher's connection against a coordinator played by the test, on the loopback."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.messages import Leave, Ready, Round, Stop, encode
from sam3ft_api.worker import Progress
from sam3ft_trainer.run.launcher.commands import Standing
from sam3ft_trainer.run.launcher.follow import Follower, Speaker
from sam3ft_trainer.run.launcher.link import Identity, Link

READY = Standing(message=Ready(addr="127.0.0.1", port=9))
ROUND = Round(
    round=3, node_rank=0, first_rank=0, world_size=2, master_addr="127.0.0.1", master_port=9, members=("n0", "n1")
)


class Coordinator:
    """The test's side: a listening socket and the newest connection."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(5)
        self.connection: socket.socket | None = None
        self.buffer = b""

    def accept(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection, _ = self.listening.accept()
        self.connection.settimeout(5)
        self.buffer = b""

    def hear(self) -> dict[str, Any]:
        assert self.connection is not None
        while b"\n" not in self.buffer:
            data = self.connection.recv(65536)
            assert data, "the launcher has closed the connection"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def say(self, data: bytes) -> None:
        assert self.connection is not None
        self.connection.sendall(data)


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    coordinator = Coordinator()
    yield coordinator
    coordinator.listening.close()
    if coordinator.connection is not None:
        coordinator.connection.close()


@pytest.fixture
def make_link(coordinator: Coordinator) -> Iterator[Callable[..., Link]]:
    made: list[Link] = []

    def make(read_progress: Callable[[], Progress | None] = lambda: None) -> Link:
        identity = Identity("n0", 0, "a", 1.0, 1, "0123456789abcdef", "127.0.0.1", 2)
        link = Link("127.0.0.1", coordinator.listening.getsockname()[1], identity, read_progress=read_progress)
        link.start()
        made.append(link)
        return link

    yield make
    for link in made:
        link.close(linger_s=0.2)


def test_a_hello_is_followed_by_what_the_node_is_up_to(coordinator: Coordinator, make_link: Callable[..., Link]):
    link = make_link()
    coordinator.accept()
    hello = coordinator.hear()
    link.tell(READY)

    assert (hello["type"], hello["node"], hello["round"], hello["processes"]) == ("hello", "n0", 0, 2)
    assert coordinator.hear()["type"] == "ready"


def test_a_new_connection_is_told_everything_again(coordinator: Coordinator, make_link: Callable[..., Link]):
    link = make_link()
    link.tell(READY)
    coordinator.accept()
    coordinator.accept()
    again = [coordinator.hear()["type"] for _ in range(2)]
    link.tell(Standing(round=ROUND))
    coordinator.accept()

    assert again == ["hello", "ready"]
    hello = coordinator.hear()
    assert (hello["round"], hello["members"]) == (3, ["n0", "n1"])


def test_a_restarted_coordinator_learns_that_a_node_without_workers_took_part(
    coordinator: Coordinator, make_link: Callable[..., Link]
):
    link = make_link()
    link.tell(Standing(message=READY.message, past_round=7))
    coordinator.accept()
    coordinator.accept()
    hello = coordinator.hear()

    assert (hello["round"], hello["members"], hello["past_round"]) == (0, [], 7)


def test_a_node_that_has_left_does_not_come_again(coordinator: Coordinator, make_link: Callable[..., Link]):
    link = make_link()
    coordinator.accept()
    coordinator.hear()
    link.tell(Standing(message=Leave(reason="asked to stop")))
    assert coordinator.hear()["type"] == "leave"
    assert coordinator.connection is not None
    coordinator.connection.close()
    time.sleep(0.1)  # it has seen the end, and waits before it tries again
    link.close(linger_s=1.0)

    coordinator.listening.settimeout(0.5)
    with pytest.raises(TimeoutError):
        coordinator.listening.accept()


def test_messages_arrive_whole_however_they_were_cut(coordinator: Coordinator, make_link: Callable[..., Link]):
    link = make_link()
    coordinator.accept()
    line = encode(ROUND) + encode(Stop(round=3))
    for part in (line[:10], line[10:-4], line[-4:]):
        coordinator.say(part)
        time.sleep(0.05)

    assert [link.inbox.get(timeout=5) for _ in range(2)] == [ROUND, Stop(round=3)]


def test_a_coordinator_that_talks_nonsense_is_tried_again(coordinator: Coordinator, make_link: Callable[..., Link]):
    make_link()
    coordinator.accept()
    coordinator.hear()
    coordinator.say(b'{"type": "party"}\n')
    coordinator.accept()

    assert coordinator.hear()["type"] == "hello"


def test_a_silent_coordinator_is_tried_again(
    coordinator: Coordinator, make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sam3ft_trainer.run.launcher.link.SILENCE_S", 0.5)
    make_link()
    coordinator.accept()
    coordinator.hear()
    coordinator.accept()

    assert coordinator.hear()["type"] == "hello"


def test_heartbeats_carry_new_progress_once_and_from_rank_0_s_node_alone(
    coordinator: Coordinator, make_link: Callable[..., Link], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sam3ft_trainer.run.launcher.link.HEARTBEAT_S", 0.1)
    link = make_link(lambda: Progress(state="training", step=4, checkpoint_step=2))
    coordinator.accept()
    coordinator.hear()
    first = coordinator.hear()
    link.tell(Standing(round=ROUND), restarts=1)
    beats = [coordinator.hear() for _ in range(6)]

    assert (first["progress"], first["step"], first["commit_step"]) == (None, 4, 2)
    assert [beat["progress"]["step"] for beat in beats if beat["progress"]] == [4]
    assert beats[-1]["restarts"] == 1


def test_closing_delivers_the_last_word(coordinator: Coordinator, make_link: Callable[..., Link]):
    link = make_link()
    coordinator.accept()
    coordinator.say(encode(Stop(round=1)) * 50)  # unread input must not make the kernel throw the last word away
    link.tell(Standing(message=Leave(reason="evicted")))
    link.close(linger_s=2.0)

    assert [coordinator.hear()["type"] for _ in range(2)] == ["hello", "leave"]
    assert coordinator.connection is not None
    assert coordinator.connection.recv(1) == b""  # an orderly end, no reset


def test_closing_without_a_coordinator_takes_no_longer_than_allowed():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    link = Link(
        "127.0.0.1", port, Identity("n0", 0, "a", 1.0, 1, "0123456789abcdef", "h", 1), read_progress=lambda: None
    )
    link.start()
    link.tell(READY)
    began = time.monotonic()
    link.close(linger_s=0.3)

    assert time.monotonic() - began < 1.0


def test_output_that_nobody_reads_holds_up_nobody(tmp_path: Path):
    reading, writing = os.pipe()
    log = tmp_path / "rank-0.log"
    log.write_bytes(b"before\n" + b"x" * 1_000_000)
    follower, speaker = Follower(log, start=7, descriptor=writing), Speaker(descriptor=writing)
    began = time.monotonic()
    speaker.say("y" * 1_000_000)
    follower.end(within_s=0.3)
    speaker.end(within_s=0.3)
    took_s = time.monotonic() - began
    os.close(reading)
    time.sleep(0.1)
    os.close(writing)

    assert took_s < 2.0


def test_what_is_appended_to_the_log_is_passed_on_to_its_end(tmp_path: Path):
    reading, writing = os.pipe()
    log = tmp_path / "rank-0.log"
    log.write_bytes(b"before\n")
    follower = Follower(log, start=7, descriptor=writing)
    with log.open("ab") as output:
        output.write(b"one\ntwo")
    follower.end(within_s=5)
    os.close(writing)

    assert os.read(reading, 100) == b"one\ntwo"
    os.close(reading)
