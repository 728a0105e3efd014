import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore import exceptions as obe
from obstore.store import MemoryStore

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.store.objects import (
    LARGE_PUT_BYTES,
    AlreadyExists,
    NoRoom,
    NotFound,
    Store,
    probe_fence,
    with_patience,
)


@pytest.fixture(params=["folder", "bucket"])
def store(request: Any, folder_store: Store):
    return folder_store if request.param == "folder" else Store(MemoryStore(), address="memory")


def test_what_was_written_is_read(store: Store):
    store.put("a/b", b"0123456789")

    assert b"0123456789" == store.get("a/b")
    assert b"345" == bytes(store.get_range("a/b", 3, 3))
    assert b"89" == bytes(store.get_range("a/b", 8, 100))
    assert 10 == store.head("a/b").size


def test_a_large_object_is_written_in_pieces_from_memory_and_from_a_file(store: Store, tmp_path: Path):
    data = os.urandom(LARGE_PUT_BYTES + 12345)
    (tmp_path / "file").write_bytes(data)
    store.put("memory", memoryview(data))
    store.put("file", tmp_path / "file")

    assert data == store.get("memory")
    assert data == store.get("file")


def test_listing_is_sorted_recursive_and_by_whole_parts(store: Store):
    for key in ("log/2", "log/1", "log/deep/3", "logs/4"):
        store.put(key, b"x")

    assert ["log/1", "log/2", "log/deep/3"] == [info.key for info in store.list_objects("log")]
    assert [] == store.list_objects("unknown")


def test_child_prefixes_are_listed_with_their_newest_write(store: Store):
    store.put("ckpt/g1/a", b"x")
    store.put("ckpt/g2/deep/b", b"x")
    store.put("ckpt/file", b"x")
    actual = store.list_prefixes("ckpt")

    assert ["ckpt/g1", "ckpt/g2"] == [info.prefix for info in actual]
    assert abs(actual[0].modified_unix_s - store.head("ckpt/g1/a").modified_unix_s) < 60
    assert [] == store.list_prefixes("unknown")


def test_deleting_what_is_gone_is_no_error(store: Store):
    store.put("a", b"x")
    store.delete(["a", "never"])

    assert [] == store.list_objects("")


def test_a_missing_object_is_not_found(store: Store):
    for call in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(NotFound, match="'nope'"):
            call("nope")


def test_exactly_one_of_many_racing_writers_creates_a_key(store: Store):
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def race(name: str) -> None:
        barrier.wait()
        try:
            store.put_if_absent("log/1", name.encode())
            outcomes.append(name)
        except AlreadyExists:
            outcomes.append("lost")

    threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winners = [name for name in outcomes if name != "lost"]
    assert 1 == len(winners)
    assert winners[0].encode() == store.get("log/1")


def test_deleting_a_prefix_takes_half_written_files_along(folder_store: Store):
    folder_store.put("ckpt/g1/a", b"x")
    (folder_store.folder / "ckpt/g1/a#1").write_bytes(b"half")
    folder_store.delete_prefix("ckpt/g1")
    folder_store.delete_prefix("ckpt/never")

    assert [] == list((folder_store.folder / "ckpt").iterdir())


CHURN = """
import pathlib, shutil, sys
root = pathlib.Path(sys.argv[1])
while True:
    for name in "bcdefgh":
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep/file").write_bytes(b"x")
    for name in "bcdefgh":
        shutil.rmtree(root / name)
"""


def test_listing_goes_on_while_another_process_deletes(folder_store: Store):
    for kept in ("a", "z"):
        folder_store.put(f"ckpt/{kept}/file", b"x")
    other = subprocess.Popen([sys.executable, "-c", CHURN, str(folder_store.folder / "ckpt")])
    try:
        for _ in range(2_000):
            assert {"ckpt/a", "ckpt/z"} <= {info.prefix for info in folder_store.list_prefixes("ckpt")}
            assert {"ckpt/a/file", "ckpt/z/file"} <= {info.key for info in folder_store.list_objects("ckpt")}
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_folder_of_half_written_files_alone_is_listed(folder_store: Store):
    (folder_store.folder / "ckpt/g1").mkdir(parents=True)
    (folder_store.folder / "ckpt/g1/a#1").write_bytes(b"half")

    assert ["ckpt/g1"] == [info.prefix for info in folder_store.list_prefixes("ckpt")]


def _raising(error: Exception) -> Any:
    def call(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (obe.PermissionDeniedError("403"), StorageDenied),
        (obe.UnauthenticatedError("401"), StorageDenied),
        (obe.GenericError("Unable to open file x: Permission denied (os error 13)"), StorageDenied),
        (obe.GenericError("Unable to create file x: Read-only file system (os error 30)"), StorageDenied),
        (obe.GenericError("error sending request: operation timed out"), StorageUnavailable),
        (obe.GenericError("Input/output error (os error 5)"), StorageUnavailable),
        (obe.NotFoundError("404"), NotFound),
        (FileNotFoundError("404"), NotFound),
        (obe.PreconditionError("412"), AlreadyExists),
        (ValueError("Could not parse path"), StorageDenied),
    ],
)
def test_errors_of_the_client_become_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
):
    monkeypatch.setattr(obstore, "put", _raising(raised))

    with pytest.raises(expected) as error:
        store.put("key", b"data")
    assert expected is type(error.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_with_numbers(folder_store: Store, monkeypatch: pytest.MonkeyPatch, number: int):
    monkeypatch.setattr(obstore, "put", _raising(obe.GenericError(f"Unable to copy data to file (os error {number})")))

    with pytest.raises(NoRoom, match=r"write 1,234,567 bytes, [\d,]+ bytes are free"):
        folder_store.put("key", memoryview(bytes(1_234_567)))


def test_the_first_line_of_a_reason_is_enough(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(obstore, "put", _raising(obe.GenericError("no route\n\nDebug source:\nlots")))

    with pytest.raises(StorageUnavailable) as error:
        store.put("key", b"data")
    assert "Debug" not in str(error.value)


def test_a_forked_child_is_stopped_with_an_explanation(tmp_path: Path):
    program = (
        "import os, sys\n"
        "from sam3ft_trainer.store.uri import open_store\n"
        "store = open_store(sys.argv[1]); store.put('a', b'x')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: store.get('a')\n"
        "    except RuntimeError as error: print(error, flush=True); os._exit(7)\n"
        "    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )

    assert "spawn or forkserver" in done.stdout
    assert "7" == done.stdout.split()[-1]


class _Clock:
    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


def test_patience_waits_longer_each_time_and_ends_with_the_budget():
    clock = _Clock()

    with pytest.raises(StorageUnavailable, match="the budget is 100 s"):
        with_patience(_raising(StorageUnavailable("gone")), outage_s=100, clock=lambda: clock.now, sleep=clock.sleep)
    assert [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] == clock.pauses


def test_patience_returns_what_comes_after_an_outage():
    clock, answers = _Clock(), [StorageUnavailable("gone"), StorageUnavailable("gone"), 42]

    def call() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert 42 == with_patience(call, outage_s=10, clock=lambda: clock.now, sleep=clock.sleep)


@pytest.mark.parametrize("error", [NotFound("x"), NoRoom("x"), StorageDenied("x")])
def test_patience_does_not_wait_for_a_refusal(error: Exception):
    with pytest.raises(type(error)):
        with_patience(_raising(error), outage_s=10, sleep=_raising(AssertionError("slept")))


def test_refused_access_counts_as_an_outage_on_request():
    clock = _Clock()

    with pytest.raises(StorageUnavailable, match="expired"):
        with_patience(
            _raising(StorageDenied("expired")),
            outage_s=10,
            denied_is_outage=True,
            clock=lambda: clock.now,
            sleep=clock.sleep,
        )


class _Overwriting(Store):
    """A store that ignores the condition, as some servers do."""

    def put_if_absent(self, key: str, data: bytes) -> None:
        self.put(key, data)


def test_the_probe_accepts_a_store_that_fences_and_leaves_nothing(store: Store):
    probe_fence(store, allow_unfenced=False)

    assert store.fenced
    assert [] == store.list_objects("probe")


def test_the_probe_refuses_a_store_that_cannot_fence_unless_allowed():
    store = _Overwriting(MemoryStore(), address="memory")
    with pytest.raises(StorageDenied, match="allow_unfenced"):
        probe_fence(store, allow_unfenced=False)

    probe_fence(store, allow_unfenced=True)

    assert not store.fenced


def test_without_a_fence_a_key_is_looked_up_before_it_is_written():
    store = Store(MemoryStore(), address="memory", fenced=False)
    store.put_if_absent("a", b"1")

    with pytest.raises(AlreadyExists):
        store.put_if_absent("a", b"2")
    assert b"1" == store.get("a")


def test_free_room_is_known_for_folders_only(folder_store: Store):
    assert folder_store.free_bytes() > 0
    assert Store(MemoryStore(), address="memory").free_bytes() is None
