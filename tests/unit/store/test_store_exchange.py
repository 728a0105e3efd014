import socket
import threading
import time
from typing import Any

import pytest
from torch.distributed import HashStore

from sam3ft_api.errors import PeerLost
from sam3ft_trainer.store.exchange import Exchange, LocalExchange, TorchExchange, tcp_exchange


@pytest.fixture(params=["local", "torch"])
def exchange(request: Any):
    return LocalExchange() if request.param == "local" else TorchExchange(HashStore())


def test_a_value_put_before_is_got_at_once(exchange: Exchange):
    exchange.put("a", b"1")

    assert b"1" == exchange.get("a", timeout_s=0.0)


def test_a_value_is_waited_for(exchange: Exchange):
    threading.Timer(0.1, lambda: exchange.put("a", b"later")).start()

    assert b"later" == exchange.get("a", timeout_s=10.0)


def test_a_silent_peer_is_named_after_the_deadline(exchange: Exchange):
    started = time.monotonic()

    with pytest.raises(PeerLost, match="save1/receipt2"):
        exchange.get("save1/receipt2", timeout_s=0.2)
    assert 0.2 <= time.monotonic() - started < 5.0


def test_a_forgotten_key_is_gone_and_forgetting_twice_is_no_error(exchange: Exchange):
    exchange.put("a", b"1")
    exchange.forget("a")
    exchange.forget("a")

    with pytest.raises(PeerLost):
        exchange.get("a", timeout_s=0.0)


def test_a_wait_in_one_thread_does_not_hold_up_another(exchange: Exchange):
    waiting = threading.Thread(target=lambda: exchange.get("never-before", timeout_s=20.0))
    waiting.start()
    started = time.monotonic()
    exchange.put("b", b"2")

    assert b"2" == exchange.get("b", timeout_s=5.0)
    assert time.monotonic() - started < 5.0
    exchange.put("never-before", b"now")
    waiting.join(10)


def test_ranks_meet_over_tcp():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    got = []

    def rank1() -> None:
        got.append(tcp_exchange("127.0.0.1", port, rank=1, world_size=2).get("x", timeout_s=20.0))

    thread = threading.Thread(target=rank1)
    thread.start()
    mine = tcp_exchange("127.0.0.1", port, rank=0, world_size=2)
    mine.put("x", b"hello")
    thread.join(30)

    assert [b"hello"] == got


def test_an_exchange_that_nobody_serves_is_a_lost_peer():
    with pytest.raises(PeerLost, match="could not meet"):
        tcp_exchange("127.0.0.1", 1, rank=1, world_size=2, timeout_s=0.5)
