"""`kill -9` at every phase of a save and of what surrounds it, against a real S3 server.

A long series is one file of results (`SAM3FT_SOAK_DIR`): points that stand there are not done again.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from kill_points import KillPoint, phases, point
from s3_server import S3Server
from store_bench import Nursery, Site, s3_site

from sam3ft_api.exit_codes import ExitCode
from sam3ft_faults.proxy import FaultProxy
from sam3ft_faults.rules import Rule

SLOW = Rule(methods=("PUT",), path=r"/ckpt/", bytes_per_s=1.2e6)
"""Uploads of a third of a megabyte then last longer than the latest kill within one."""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    yield started
    started.close()


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as standing:
        yield standing


def assert_written_once(proxy: FaultProxy, prefix: str) -> None:
    """No key of a checkpoint file is ever put a second time, whether its first write arrived or not."""
    puts = Counter(
        unquote(parts.path)
        for request in proxy.requests()
        for parts in [urlsplit(request["target"])]
        if request["method"] == "PUT" and not parts.query and prefix in parts.path and "/ckpt/" in parts.path
    )
    assert puts
    assert {1} == set(puts.values()), puts.most_common(3)


def kill_at(nursery: Nursery, proxy: FaultProxy, site: Site, where: KillPoint) -> None:
    """Start a group, kill its victim at the point, and make sure that the fault fired there."""
    if where.kind == "get_range":  # there must be something to read
        for pid in [nursery.start(job) for job in site.jobs(where.world_size, steps=3)]:
            assert 0 == nursery.reap(pid)
    proxy.rules(*([SLOW] if where.when == "during" else []))
    more = {"steps": 50, "checkpoint": {"keep_last": 2}, "peer_timeout_s": 5.0}
    jobs = site.jobs(where.world_size, **more)
    jobs[where.victim]["die"] = where.die()
    pids = [nursery.start(job) for job in jobs]
    code = nursery.reap(pids[where.victim])
    for rank, pid in enumerate(pids):
        if rank != where.victim:
            os.kill(pid, signal.SIGKILL)
            nursery.reap(pid)
    proxy.clear()

    assert -signal.SIGKILL == code
    assert [where.name] == site.words("dying")
    assert [] == site.words("survived")


def resume_after(nursery: Nursery, site: Site) -> int:
    """Run two more steps with one process, from a verified commit; returns the step that was resumed from."""
    commits = site.history().usable_commits()  # raises if an entry is torn, missing or out of its chain
    newest = max((commit.meta.step for commit in commits), default=0)
    assert newest >= max(site.words("committed"), default=0), "a commit that was reported is lost"
    site.look()
    code = nursery.run(site.job(steps=2))

    assert ExitCode.SUCCEEDED == code, (code, site.said.read_text())  # 99 is a state that was restored wrong
    assert newest == site.words("resumed")[-1]
    assert [newest + 2, newest + 1] == [c.meta.step for c in site.history().usable_commits()][:2]
    assert {} == {s: e for s, e in site.history().retired().items() if e.reason == "damaged"}
    site.look()
    return int(newest)


def check_point(number: int, nursery: Nursery, proxy: FaultProxy, server: S3Server, bucket: str, folder: Path) -> str:
    where = point(number)
    site = s3_site(server, bucket, folder, name=f"p{number:04d}", endpoint=proxy.endpoint)
    kill_at(nursery, proxy, site, where)
    resume_after(nursery, site)
    assert_written_once(proxy, f"/runs/p{number:04d}/")
    return where.name


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(phases()) + 1))
def test_a_run_that_is_killed_in_any_phase_resumes_from_its_newest_commit(
    nursery: Nursery, proxy: FaultProxy, s3_server: S3Server, s3_bucket: str, tmp_path: Path, number: int
) -> None:
    check_point(number, nursery, proxy, s3_server, s3_bucket, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_kills_lose_no_commit_and_restore_nothing_wrong(
    nursery: Nursery, proxy: FaultProxy, s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    results = Path(os.environ.get("SAM3FT_SOAK_DIR", tmp_path)) / "kills.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for number in sorted(set(range(1000, 1200)) - {line["number"] for line in done}):
        name = check_point(number, nursery, proxy, s3_server, s3_bucket, tmp_path)
        done.append({"number": number, "phase": name})
        with results.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")

    counts = Counter(line["phase"] for line in done)
    print(
        json.dumps({"kills": len(done), "wrong restores": 0, "lost commits": 0, "phases": counts})
    )  # a failure raises
    assert 200 == len(done)
    assert {f"{kind} {when}" for kind, when, _ in phases()} == set(counts)
