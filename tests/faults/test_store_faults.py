"""Real processes that save, and are killed, superseded, or run out of disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server
from store_bench import WORKER, Nursery, Site, folder_site, harm, s3_site, wait_until

from sam3ft_api.exit_codes import ExitCode


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    yield started
    started.close()


@pytest.fixture(params=["folder", "s3"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    if request.param == "folder":
        return folder_site(tmp_path)
    server: S3Server = request.getfixturevalue("s3_server")
    return s3_site(server, request.getfixturevalue("s3_bucket"), tmp_path)


def die_somewhere(nursery: Nursery, site: Site, draw: random.Random, *, megabytes: int, at: str) -> None:
    """Start a group of one or two, kill one of them at a random point, then the other."""
    world_size = draw.choice([1, 1, 2])
    victim = draw.randrange(world_size)
    jobs = site.jobs(world_size, steps=1_000, megabytes=megabytes)
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
    site: Site,
    kills: int,
    megabytes: int,
    at: str,
    seed: int,
) -> None:
    draw = random.Random(seed)
    for turn in range(kills):
        die_somewhere(nursery, site, draw, megabytes=megabytes, at=at)
        acknowledged = max(site.words("committed"), default=0)
        commits = site.history().commits  # raises if an entry is torn, missing or out of its chain
        newest = max((commit.meta.step for commit in commits), default=0)
        site.look()

        assert newest >= acknowledged, f"turn {turn}: step {acknowledged} was reported as committed and is lost"
        assert sorted(site.words("resumed")) == site.words("resumed")

    assert nursery.run(site.job(steps=5, megabytes=megabytes)) == ExitCode.SUCCEEDED
    site.look()
    resumed = site.words("resumed")
    assert len(resumed) > kills // 4
    assert resumed[-1] + 5 == site.words("committed")[-1]
    assert [] == [entry for entry in site.history().retired().values() if entry.reason == "damaged"]


def test_of_two_incarnations_at_once_the_older_stops_with_its_code(
    nursery: Nursery, site: Site, tmp_path: Path
) -> None:
    old = nursery.start(site.job(steps=100_000))
    wait_until(lambda: len(site.words("committed")) >= 3)
    new_said = tmp_path / "new.jsonl"
    new = nursery.start(site.job(steps=8, said=str(new_said)))
    assert nursery.reap(new) == ExitCode.SUCCEEDED, new_said.read_text()
    site.look()
    assert nursery.reap(old) == ExitCode.FENCED
    site.look()
    assert "generation 2 of 'run'" in site.words("message")[-1]
    history = site.history()
    claim = next(entry.seq for entry in history.claims if entry.gen == 2)
    assert {2} == {entry.gen for entry in history.entries[claim - 1 :]}
    resumed = json.loads(new_said.read_text().splitlines()[0])["resumed"]
    assert resumed >= max(site.words("committed"))
    assert list(range(resumed + 1, resumed + 9)) == [c.meta.step for c in history.commits if c.gen == 2]


def test_a_rank_that_dies_in_a_save_costs_that_save_and_the_next_group_resumes(nursery: Nursery, site: Site) -> None:
    pair = site.jobs(2, steps=50, peer_timeout_s=1.0, pause_s=0.02)
    pair[1]["die"] = {"request": 8, "when": "before"}
    pids = [nursery.start(job) for job in pair]
    assert nursery.reap(pids[1]) == -signal.SIGKILL
    code = nursery.reap(pids[0])

    assert code == ExitCode.PEER_LOST
    newest = site.history().usable_commits()[0].meta.step
    trio = site.jobs(3, steps=2)
    assert [0, 0, 0] == [nursery.reap(pid) for pid in [nursery.start(job) for job in trio]]
    assert [newest] * 3 == site.words("resumed")[-3:]


@pytest.mark.parametrize("how", ["truncate", "flip", "delete"])
def test_a_harmed_newest_commit_is_passed_over_by_a_real_run_whichever_file_it_is(
    nursery: Nursery, site: Site, how: str
) -> None:
    assert nursery.run(site.job(steps=3)) == ExitCode.SUCCEEDED
    for turn in range(4):
        commit = site.history().usable_commits()[0]
        victim = commit.files[turn]
        harm(site.path(victim.key), how)
        code = nursery.run(site.job(steps=1))

        assert code == ExitCode.SUCCEEDED
        assert commit.meta.step - 1 == site.words("resumed")[-1]
        assert f"step {commit.meta.step} is damaged: {victim.key}" in site.words("message")[-1]
        assert nursery.run(site.job(steps=1)) == ExitCode.SUCCEEDED
    assert 4 == sum(entry.reason == "damaged" for entry in set(site.history().retired().values()))


def test_a_full_disk_ends_the_run_with_numbers_and_keeps_the_last_commit(tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    site = folder_site(tmp_path)
    job = site.job(address=str(mount), steps=100, megabytes=4, checkpoint={"keep_last": 50})
    again = job | {"steps": 0, "checkpoint": {"keep_last": 1}}
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
    message = next(m for m in site.words("message") if "no room" in m)
    assert "bytes are free" in message
    assert "Traceback" not in done.stderr
    assert max(site.words("committed")) == site.words("resumed")[-1]
