"""The node's cache of images: bounded, shared, checked, and never a reason to fail."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools_here import need_tool

from sam3ft_trainer.data import imagecache
from sam3ft_trainer.data.figures import Figures, merged
from sam3ft_trainer.data.imagecache import ImageCache, entry_name

KIB = 1 << 10
SIZE = 60 * KIB
ON_DISK = 64 * KIB
"""What a file of SIZE takes, with its header, in blocks."""


def content(number: int, size: int = SIZE) -> bytes:
    return bytes([number % 251]) * size


def name(number: int) -> str:
    return entry_name("endpoint", "bucket", f"{number}.jpg", "etag")


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if len(path.name) in (32, 64))


def counts(figures: Figures) -> dict[str, int]:
    return {key: value for key, value in merged([figures.take()]).items() if value}


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB. Mounting needs root, which tests in a container have; elsewhere the stand-in is below."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        need_tool(f"no small file system can be mounted here, which needs root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_what_was_put_is_got_and_counted(tmp_path: Path, figures: Figures) -> None:
    cache = ImageCache(tmp_path, figures, limit_bytes=1 << 20)

    before = cache.get(name(1))
    cache.put(name(1), content(1))
    after = cache.get(name(1))

    assert (None, content(1)) == (before, after)
    assert {"misses": 1, "stored": 1, "hits": 1, "hit_bytes": SIZE} == counts(figures)


def test_a_later_process_finds_what_an_earlier_one_put(tmp_path: Path, figures: Figures) -> None:
    first = ImageCache(tmp_path, figures, limit_bytes=1 << 20)
    first.put(name(1), content(1))
    first.close()

    second = ImageCache(tmp_path, figures)

    assert content(1) == second.get(name(1))
    assert ON_DISK == second.used_bytes


def test_another_etag_is_another_entry() -> None:
    assert entry_name("e", "b", "1.jpg", "etag 1") != entry_name("e", "b", "1.jpg", "etag 2")
    assert entry_name("e", "b", "1.jpg") != entry_name("e", "b1", ".jpg")


def test_a_full_cache_keeps_what_it_has_and_takes_nothing_more(tmp_path: Path, figures: Figures) -> None:
    cache = ImageCache(tmp_path, figures, limit_bytes=5 * ON_DISK)
    cache.want([name(number) for number in range(20)])

    for _ in range(3):
        for number in range(20):
            if cache.get(name(number)) is None:
                cache.put(name(number), content(number))

    assert [number for number in range(20) if cache.get(name(number))] == [0, 1, 2, 3, 4]
    assert on_disk(tmp_path) <= 5 * ON_DISK
    found = counts(figures)
    assert (5, 45, 15) == (found["stored"], found["refused"], found["hits"])
    assert "evicted" not in found


def test_the_limit_holds_for_many_threads_but_for_a_file_each(tmp_path: Path, figures: Figures) -> None:
    cache = ImageCache(tmp_path, figures, limit_bytes=10 * ON_DISK)
    threads, highest, is_over = 8, 0, threading.Event()

    def fill(start: int) -> None:
        for number in range(start, 400, threads):
            cache.put(name(number), content(number))

    def watch() -> None:
        nonlocal highest
        while not is_over.is_set():
            try:
                highest = max(highest, on_disk(tmp_path))
            except FileNotFoundError:  # renamed while it was looked at
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    workers = [threading.Thread(target=fill, args=(start,)) for start in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    is_over.set()
    watcher.join()

    assert highest <= (10 + threads) * ON_DISK
    assert 10 * ON_DISK == cache.used_bytes
    assert [] == list((tmp_path / "images" / "tmp").iterdir())


def test_files_of_other_data_sets_make_room_those_read_longest_ago_first(tmp_path: Path, figures: Figures) -> None:
    earlier = ImageCache(tmp_path, figures, limit_bytes=10 * ON_DISK)
    for number in range(10):
        earlier.put(name(number), content(number))
        path = tmp_path / "images" / name(number)[:2] / name(number)
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    earlier.close()
    later = ImageCache(tmp_path, figures, limit_bytes=10 * ON_DISK)
    later.want([name(0), *(name(number) for number in range(100, 110))])

    later.put(name(100), content(100))

    assert [number for number in range(11) if later.get(name(number)) is None] == [1, 10]
    assert content(100) == later.get(name(100))


def test_nothing_is_removed_while_another_process_uses_the_cache(tmp_path: Path, figures: Figures) -> None:
    first = ImageCache(tmp_path, figures, limit_bytes=3 * ON_DISK)
    for number in range(3):
        first.put(name(number), content(number))
    second = ImageCache(tmp_path, figures, limit_bytes=3 * ON_DISK)
    second.want([name(100)])

    second.put(name(100), content(100))

    assert [True, True, True, False] == [second.get(name(number)) is not None for number in (0, 1, 2, 100)]


@pytest.mark.parametrize("place", [3, 70, -1])
def test_a_flipped_byte_is_noticed_dropped_and_counted(place: int, tmp_path: Path, figures: Figures) -> None:
    cache = ImageCache(tmp_path, figures, limit_bytes=1 << 20)
    cache.put(name(1), content(1))
    path = tmp_path / "images" / name(1)[:2] / name(1)
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)

    found = cache.get(name(1))

    assert found is None
    assert (False, 0) == (path.exists(), cache.used_bytes)
    assert {"damaged": 1, "misses": 1, "stored": 1} == counts(figures)
    cache.put(name(1), content(1))
    assert content(1) == cache.get(name(1))


@pytest.mark.parametrize("kept", [0, 10, 64, 1000])
def test_a_file_that_was_cut_short_is_dropped(kept: int, tmp_path: Path, figures: Figures) -> None:
    cache = ImageCache(tmp_path, figures, limit_bytes=1 << 20)
    cache.put(name(1), content(1))
    path = tmp_path / "images" / name(1)[:2] / name(1)
    path.write_bytes(path.read_bytes()[:kept])

    assert cache.get(name(1)) is None


def test_a_file_under_another_entrys_name_is_dropped(tmp_path: Path, figures: Figures) -> None:
    cache = ImageCache(tmp_path, figures, limit_bytes=1 << 20)
    cache.put(name(1), content(1))
    other = tmp_path / "images" / name(2)[:2] / name(2)
    other.write_bytes((tmp_path / "images" / name(1)[:2] / name(1)).read_bytes())

    assert cache.get(name(2)) is None


WRITER = """
    import sys
    from pathlib import Path
    from sam3ft_trainer.data.figures import Figures
    from sam3ft_trainer.data.imagecache import ImageCache, entry_name

    cache = ImageCache(Path(sys.argv[1]), Figures(), limit_bytes=int(sys.argv[2]))
    print("open", flush=True)
    sys.stdin.readline()
    first, last, size = (int(word) for word in sys.argv[3:6])
    cache.want(entry_name("endpoint", "bucket", f"{number}.jpg", "etag") for number in range(first, last))
    for number in range(first, last):
        cache.put(entry_name("endpoint", "bucket", f"{number}.jpg", "etag"), bytes([number % 251]) * size)
    print(cache.used_bytes, flush=True)
"""


def writer(folder: Path, *, limit: int, first: int, last: int, size: int = SIZE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder), str(limit), str(first), str(last), str(size)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "open\n" == process.stdout.readline()
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_share_one_limit_and_one_set_of_files(tmp_path: Path, figures: Figures) -> None:
    limit = 40 * ON_DISK
    processes = [writer(tmp_path, limit=limit, first=first, last=first + 60) for first in (0, 30)]
    for process in processes:
        go(process)
    outputs = [process.communicate(timeout=60)[0] for process in processes]

    assert limit == max(int(output) for output in outputs)
    files = [path for path in (tmp_path / "images").rglob("*") if len(path.name) == 64]
    assert 40 == len(files)
    cache = ImageCache(tmp_path, figures, limit_bytes=limit)
    assert limit == cache.used_bytes
    assert 40 == sum(cache.get(name(number)) == content(number) for number in range(90))


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.1])
def test_kill_9_while_writing_leaves_only_whole_files_and_a_right_count(
    delay_s: float, tmp_path: Path, figures: Figures
) -> None:
    size = 2 << 20
    process = writer(tmp_path, limit=1 << 30, first=0, last=200, size=size)
    go(process)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    cache = ImageCache(tmp_path, figures, limit_bytes=1 << 30)

    files = [path for path in (tmp_path / "images").rglob("*") if len(path.name) == 64]
    assert len(files) == sum(cache.get(name(number)) == content(number, size) for number in range(200))
    assert cache.used_bytes == len(files) * (size + 4 * KIB)
    assert [] == list((tmp_path / "images" / "tmp").iterdir())


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path, figures: Figures) -> None:
    ImageCache(tmp_path, figures, limit_bytes=1 << 20).close()
    left = tmp_path / "images" / "tmp" / "0123456789abcdef0123456789abcdef"
    left.write_bytes(b"half of an ima")

    ImageCache(tmp_path, figures, limit_bytes=1 << 20)

    assert not left.exists()


def test_a_full_disk_stops_the_cache_and_nothing_else(tiny_disk: Path, figures: Figures) -> None:
    cache = ImageCache(tiny_disk, figures, limit_bytes=1 << 30)

    for number in range(30):
        cache.put(name(number), content(number))

    kept = [number for number in range(30) if cache.get(name(number)) == content(number)]
    assert 5 < len(kept) < 16
    assert "No space left" in cache.failure
    found = counts(figures)
    assert (1, len(kept), 30 - len(kept) - 1) == (found["cache_failures"], found["stored"], found["refused"])
    assert [] == list((tiny_disk / "images" / "tmp").iterdir())


def test_without_a_limit_half_of_what_is_free_is_used(tiny_disk: Path, figures: Figures) -> None:
    cache = ImageCache(tiny_disk, figures)
    half = cache.limit_bytes
    for number in range(30):
        cache.put(name(number), content(number))
    used = cache.used_bytes
    cache.close()

    again = ImageCache(tiny_disk, figures)

    assert 400 * KIB < half <= 512 * KIB
    assert half - ON_DISK < used <= half
    assert abs(again.limit_bytes - half) <= 16 * KIB
    assert "" == again.failure


def test_a_folder_that_cannot_be_used_is_an_error_of_the_system(tmp_path: Path, figures: Figures) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(OSError, match="file"):
        ImageCache(tmp_path / "file", figures)


def test_room_that_becomes_free_is_used_from_the_low_water_on(tmp_path: Path, figures: Figures) -> None:
    cache = ImageCache(tmp_path, figures, limit_bytes=20 * ON_DISK)
    cache.want([name(number) for number in range(60)])
    for number in range(22):
        cache.put(name(number), content(number))

    def spoil(number: int) -> None:
        path = tmp_path / "images" / name(number)[:2] / name(number)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        cache.get(name(number))

    spoil(0)
    cache.put(name(50), content(50))
    above_the_mark = cache.get(name(50))
    spoil(1)
    cache.put(name(51), content(51))

    assert above_the_mark is None
    assert content(51) == cache.get(name(51))


def test_a_disk_that_fails_stops_the_cache_and_nothing_else(
    tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for a full disk where no small file system can be mounted."""

    def write(path: Path, _name: str, _content: bytes) -> None:
        path.write_bytes(b"a part")
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    cache = ImageCache(tmp_path, figures, limit_bytes=1 << 20)
    cache.put(name(1), content(1))
    monkeypatch.setattr(imagecache, "_write", write)

    cache.put(name(2), content(2))
    cache.put(name(3), content(3))

    assert (content(1), None) == (cache.get(name(1)), cache.get(name(2)))
    assert "Disk quota exceeded" in cache.failure
    found = counts(figures)
    assert (1, 1, 1) == (found["cache_failures"], found["stored"], found["refused"])
    assert [] == list((tmp_path / "images" / "tmp").iterdir())
