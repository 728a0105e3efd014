"""Real processes that save, and are killed, superseded, or run out of disk."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.exit_codes import ExitCode
from sam3ft_trainer.store.history import History
from sam3ft_trainer.store.log import CommitLog
from sam3ft_trainer.store.uri import open_store

WORKER = Path(__file__).with_name("store_worker.py")


class Nursery:
    """Starts workers by forking a process that has imported everything already."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, job: dict[str, Any]) -> int:
        """Return the pid of a worker."""
        return int(self._ask({"start": job}))

    def reap(self, pid: int) -> int:
        """Wait for a worker and return its exit code, -9 if it was killed."""
        return int(self._ask({"reap": pid}))

    def close(self) -> None:
        """End the nursery and every worker it still has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    yield started
    started.close()


def job_in(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "address": str(folder / "run"),
        "said": str(folder / "said.jsonl"),
        "rank": 0,
        "world_size": 1,
        "steps": 6,
        "megabytes": 1,
    } | more


def said(folder: Path, word: str) -> list[Any]:
    lines = (folder / "said.jsonl").read_text().splitlines() if (folder / "said.jsonl").exists() else []
    return [line[word] for line in map(json.loads, lines) if word in line]


def history(folder: Path) -> History:
    return CommitLog(open_store(str(folder / "run"))).read()


def wait_until(condition: Any, *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_somewhere(nursery: Nursery, folder: Path, draw: random.Random, *, megabytes: int, at: str) -> None:
    """Start a group of one or two, kill one of them at a random point, then the other."""
    world_size = draw.choice([1, 1, 2])
    port = free_port() if world_size > 1 else 0
    victim = draw.randrange(world_size)
    jobs = [
        job_in(folder, rank=rank, world_size=world_size, port=port, steps=1_000, megabytes=megabytes)
        for rank in range(world_size)
    ]
    if at == "request":
        jobs[victim]["die"] = {"request": draw.randrange(60), "when": draw.choice(["before", "after"])}
    pids = [nursery.start(job) for job in jobs]
    if at == "moment":
        time.sleep(draw.uniform(0.0, 1.0))
        os.kill(pids[victim], signal.SIGKILL)
    codes = {victim: nursery.reap(pids[victim])}
    for rank, pid in enumerate(pids):
        if rank != victim:
            os.kill(pid, signal.SIGKILL)
            codes[rank] = nursery.reap(pid)

    assert -signal.SIGKILL == codes.pop(victim)
    assert set(codes.values()) <= {-signal.SIGKILL, ExitCode.PEER_LOST}, codes  # the other may have noticed first


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kills", "megabytes", "at", "seed"),
    [
        pytest.param(14, 1, "request", 0, marks=pytest.mark.slow, id="14-requests"),
        pytest.param(6, 24, "moment", 1, marks=pytest.mark.slow, id="6-moments"),
        pytest.param(140, 1, "request", 2, marks=pytest.mark.soak, id="140-requests"),
        pytest.param(60, 24, "moment", 3, marks=pytest.mark.soak, id="60-moments"),
    ],
)
def test_a_run_killed_at_any_point_resumes_from_its_newest_verified_commit(
    nursery: Nursery,
    tmp_path: Path,
    kills: int,
    megabytes: int,
    at: str,
    seed: int,
) -> None:
    draw = random.Random(seed)
    for turn in range(kills):
        die_somewhere(nursery, tmp_path, draw, megabytes=megabytes, at=at)
        acknowledged = max(said(tmp_path, "committed"), default=0)
        commits = history(tmp_path).commits  # raises if an entry is torn, missing or out of its chain
        newest = max((commit.meta.step for commit in commits), default=0)

        assert newest >= acknowledged, f"turn {turn}: step {acknowledged} was reported as committed and is lost"
        assert sorted(said(tmp_path, "resumed")) == said(tmp_path, "resumed")

    assert nursery.reap(nursery.start(job_in(tmp_path, steps=5, megabytes=megabytes))) == ExitCode.SUCCEEDED
    resumed = said(tmp_path, "resumed")
    assert len(resumed) > kills // 4
    assert resumed[-1] + 5 == said(tmp_path, "committed")[-1]
    assert [] == [entry for entry in history(tmp_path).retired().values() if entry.reason == "damaged"]


def test_of_two_incarnations_at_once_the_older_stops_with_its_code(nursery: Nursery, tmp_path: Path) -> None:
    old = nursery.start(job_in(tmp_path, steps=100_000))
    wait_until(lambda: len(said(tmp_path, "committed")) >= 3)
    new = nursery.start(job_in(tmp_path, steps=8, said=str(tmp_path / "new.jsonl")))
    assert nursery.reap(new) == ExitCode.SUCCEEDED, (tmp_path / "new.jsonl").read_text()
    assert nursery.reap(old) == ExitCode.FENCED
    assert "generation 2 of 'run'" in said(tmp_path, "message")[-1]
    entries = history(tmp_path)
    claim = next(entry.seq for entry in entries.claims if entry.gen == 2)
    assert {2} == {entry.gen for entry in entries.entries[claim - 1 :]}
    resumed = json.loads((tmp_path / "new.jsonl").read_text().splitlines()[0])["resumed"]
    assert resumed >= max(said(tmp_path, "committed"))
    assert list(range(resumed + 1, resumed + 9)) == [c.meta.step for c in entries.commits if c.gen == 2]


def test_a_rank_that_dies_in_a_save_costs_that_save_and_the_next_group_resumes(
    nursery: Nursery, tmp_path: Path
) -> None:
    port = free_port()
    pair = [
        job_in(tmp_path, rank=rank, world_size=2, port=port, steps=50, peer_timeout_s=1.0, pause_s=0.02)
        for rank in range(2)
    ]
    pair[1]["die"] = {"request": 8, "when": "before"}
    pids = [nursery.start(job) for job in pair]
    assert nursery.reap(pids[1]) == -signal.SIGKILL
    code = nursery.reap(pids[0])

    assert code == ExitCode.PEER_LOST
    newest = history(tmp_path).usable_commits()[0].meta.step
    port = free_port()
    trio = [job_in(tmp_path, rank=rank, world_size=3, port=port, steps=2) for rank in range(3)]
    assert [0, 0, 0] == [nursery.reap(pid) for pid in [nursery.start(job) for job in trio]]
    assert [newest] * 3 == said(tmp_path, "resumed")[-3:]


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete"])
def test_a_harmed_newest_commit_is_passed_over_by_a_real_run(nursery: Nursery, tmp_path: Path, harm: str) -> None:
    assert nursery.reap(nursery.start(job_in(tmp_path, steps=4))) == ExitCode.SUCCEEDED
    victim = tmp_path / "run" / history(tmp_path).usable_commits()[0].files[0].key
    data = bytearray(victim.read_bytes())
    if harm == "delete":
        victim.unlink()
    elif harm == "truncate":
        victim.write_bytes(data[: len(data) // 2])
    else:
        data[-1] ^= 0x80
        victim.write_bytes(data)
    code = nursery.reap(nursery.start(job_in(tmp_path, steps=3)))

    assert code == ExitCode.SUCCEEDED
    assert 3 == said(tmp_path, "resumed")[-1]
    assert f"step 4 is damaged: {victim.relative_to(tmp_path / 'run')}" in said(tmp_path, "message")[-1]
    assert [6, 5, 4] == [commit.meta.step for commit in history(tmp_path).usable_commits()]


def test_a_full_disk_ends_the_run_with_numbers_and_keeps_the_last_commit(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    job = job_in(tmp_path, address=str(mount), steps=100, megabytes=4, keep_last=50)
    again = job | {"steps": 0, "keep_last": 1}
    script = (
        'mount -t tmpfs -o size=30m tmpfs "$1" || exit 77\n'
        '"$2" "$3" "$4"; first=$?\n'
        'rm -r "$1"/ckpt/*s00000001-*\n'  # the user makes room
        '"$2" "$3" "$5"; echo "$first $?"\n'
    )
    command = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, "bash"]

    done = subprocess.run(
        [*command, str(mount), sys.executable, str(WORKER), json.dumps(job), json.dumps(again)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode != 77, f"a small disk could not be mounted in a user namespace: {done.stderr}"
    assert f"{ExitCode.STORAGE_DENIED:d} {ExitCode.SUCCEEDED:d}" == done.stdout.strip().splitlines()[-1], done.stderr
    message = next(m for m in said(tmp_path, "message") if "no room" in m)
    assert "bytes are free" in message
    assert "Traceback" not in done.stderr
    assert max(said(tmp_path, "committed")) == said(tmp_path, "resumed")[-1]
