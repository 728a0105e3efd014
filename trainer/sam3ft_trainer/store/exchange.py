"""How ranks tell each other about a save or a restore: small values under keys that are used once.

Not collectives: a save runs in the background, and a collective there could interleave with those of the training.
A peer that dies makes a wait end at its deadline, and ends that save and nothing else.
"""

import datetime as dt
import threading
import time
from typing import Protocol

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # re-exported without __all__

from sam3ft_api.errors import PeerLost

_POLL_S = 0.02


class Exchange(Protocol):
    """A key-value store shared by the ranks of one round; used by several threads at once."""

    def put(self, key: str, value: bytes) -> None:
        """Make `value`, UTF-8 text, known under `key`.

        Raises:
            PeerLost: the exchange is gone.
        """
        ...

    def get(self, key: str, *, timeout_s: float) -> bytes:
        """Return the value of `key`, waiting until it is known.

        Raises:
            PeerLost: not known within `timeout_s` seconds, or the exchange is gone.
        """
        ...

    def forget(self, key: str) -> None:
        """Drop a key that nobody will read again; a missing one is no error."""
        ...


class LocalExchange:
    """The exchange of threads of one process, and of a group of one."""

    def __init__(self) -> None:
        """Start empty."""
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def put(self, key: str, value: bytes) -> None:
        """Make `value` known under `key`."""
        with self._changed:
            self._values[key] = value
            self._changed.notify_all()

    def get(self, key: str, *, timeout_s: float) -> bytes:
        """Return the value of `key`, waiting until it is known; `PeerLost` after `timeout_s`."""
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, timeout_s):
                raise PeerLost(f"no word from a peer ({key}) within {timeout_s:.0f} s")
            return self._values[key]

    def forget(self, key: str) -> None:
        """Drop a key."""
        with self._changed:
            self._values.pop(key, None)


class TorchExchange:
    """The exchange over a store of torch.distributed, on a connection of its own where the store has one.

    The store must be empty of this class's keys at the start of a round; torch prefixes the keys of the default store
    for each process group, so `torch.distributed.distributed_c10d._get_default_store()` after `init_process_group` is.
    """

    def __init__(self, store: Store, *, prefix: str = "sam3ft_store") -> None:
        """Use `store` under `prefix`."""
        self._origin = store  # the serving side may live in it
        own = store.clone() if isinstance(store, TCPStore | PrefixStore) else store
        self._store = PrefixStore(prefix, own)

    def put(self, key: str, value: bytes) -> None:
        """Make `value` known under `key`."""
        try:
            self._store.set(key, value.decode())
        except RuntimeError as error:
            raise PeerLost(f"the store of the process group is gone: {_first_line(error)}") from error

    def get(self, key: str, *, timeout_s: float) -> bytes:
        """Return the value of `key`, polling: a blocking wait would hold the connection against other threads."""
        deadline = time.monotonic() + timeout_s
        try:
            while not self._store.check([key]):
                if time.monotonic() > deadline:
                    raise PeerLost(f"no word from a peer ({key}) within {timeout_s:.0f} s")
                time.sleep(_POLL_S)
            return bytes(self._store.get(key))
        except RuntimeError as error:
            raise PeerLost(f"the store of the process group is gone: {_first_line(error)}") from error

    def forget(self, key: str) -> None:
        """Drop a key."""
        try:
            self._store.delete_key(key)
        except RuntimeError as error:
            raise PeerLost(f"the store of the process group is gone: {_first_line(error)}") from error


def tcp_exchange(host: str, port: int, *, rank: int, world_size: int, timeout_s: float = 60.0) -> TorchExchange:
    """Return an exchange over a TCP store of its own, served by rank 0 at `host:port`.

    Raises:
        PeerLost: not all ranks came within `timeout_s` seconds.
    """
    try:
        store = TCPStore(
            host, port, world_size, is_master=rank == 0, timeout=dt.timedelta(seconds=timeout_s), wait_for_workers=True
        )
    except RuntimeError as error:
        raise PeerLost(f"the ranks could not meet at {host}:{port}: {_first_line(error)}") from error
    return TorchExchange(store)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]
