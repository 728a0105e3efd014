"""Credentials change while a run goes on: the next request is signed with the new ones, without a restart."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import S3Server
from store_sites import Site, s3_settings

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.objects import Store, with_patience


class Rotating:
    """A server whose keys can be changed, and the folder of the Secret that holds them."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server, self.secret = server, folder / "secret"
        self.secret.mkdir()
        self.settings = s3_settings("rotating", server, folder)
        self.mount()

    def mount(self) -> None:
        """Write the present keys, as Kubernetes does: beside, then by one rename."""
        for name, value in self.server.environment().items():
            (self.secret / f".{name}").write_text(value + "\n")
            (self.secret / f".{name}").rename(self.secret / name)

    def rotate(self) -> None:
        """Let the server know only new keys from now on."""
        self.server.stop()
        self.server.access_key, self.server.secret_key = "rotated" + self.server.access_key, "f" * 40
        self.server.start()

    def open(self) -> Store:
        """Open a prefix with the keys of the Secret."""
        variables = {"SAM3FT_CREDENTIALS_DIR": str(self.secret)}
        profile = dict(self.settings.profile)
        return Site("", self.settings.bucket, "", self.settings.folder, variables, profile).fresh()


@pytest.fixture
def rotating(tmp_path: Path) -> Iterator[Rotating]:
    (tmp_path / "buckets").mkdir()
    with S3Server(tmp_path / "buckets") as server:
        yield Rotating(server, tmp_path)


def test_new_keys_are_used_at_once_when_the_old_ones_are_refused(rotating: Rotating):
    store = rotating.open()
    store.put("a", b"before")
    rotating.rotate()
    rotating.mount()

    began = time.monotonic()
    store.put("a", b"after")

    assert b"after" == store.get("a")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.get("a"),
        lambda store: store.get_range("a", 0, 2),
        lambda store: store.head("a"),
        lambda store: store.put("b", b"x"),
        lambda store: store.put("b", bytes(9 << 20)),
        lambda store: store.put_if_absent("b", b"x"),
        lambda store: store.list_objects("a"),
        lambda store: store.delete(["a"]),
    ],
)
def test_every_request_takes_new_keys(rotating: Rotating, ask: Callable[[Store], object]):
    store = rotating.open()
    store.put("a", b"before")
    rotating.rotate()
    rotating.mount()

    ask(store)


def test_until_the_secret_is_mounted_anew_access_is_refused(rotating: Rotating):
    store = rotating.open()
    store.put("a", b"before")
    rotating.rotate()

    with pytest.raises(StorageDenied, match="does not know this access key"):
        store.get("a")
    rotating.mount()

    assert b"before" == store.get("a")


def test_a_running_save_waits_for_the_new_keys(rotating: Rotating):
    store = rotating.open()
    store.put("a", b"before")
    rotating.rotate()
    threading.Timer(1.5, rotating.mount).start()

    actual = with_patience(lambda: store.get("a"), outage_s=30, denied_is_outage=True)

    assert b"before" == actual


def test_many_threads_take_new_keys_together(rotating: Rotating):
    store = rotating.open()
    store.put("a", b"x")
    rotating.rotate()
    rotating.mount()
    failures: list[Exception] = []

    def read() -> None:
        try:
            for _ in range(5):
                store.get("a")
        except (StorageDenied, StorageUnavailable) as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == failures


def test_the_log_goes_on_over_a_rotation(rotating: Rotating):
    store = rotating.open()
    log = CommitLog(store, outage_s=10)
    log.read()
    store.put("log/00000001.json", b"x")
    rotating.rotate()
    rotating.mount()

    assert ["log/00000001.json"] == [info.key for info in store.list_objects("log")]
