"""A run that is evicted while its store is slow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_site import Workers, config_of, make_data
from s3_server import S3Server
from store_bench import Site, s3_site

from sam3ft_api.exit_codes import ExitCode
from sam3ft_faults.proxy import FaultProxy
from sam3ft_faults.rules import Rule

SLOW_BYTES_PER_S = 150_000


@pytest.fixture
def site(s3_server: S3Server, s3_bucket: str, proxy: FaultProxy, tmp_path: Path) -> Site:
    return s3_site(s3_server, s3_bucket, tmp_path, endpoint=proxy.endpoint)


@pytest.fixture
def start(site: Site, tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    started: list[Workers] = []
    data = make_data(tmp_path / "data")

    def start_workers(*, world_size: int = 1, environ: dict[str, str] | None = None, **sections: Any) -> Workers:
        config = config_of(site, data, **sections)
        started.append(Workers(config, site, tmp_path / "work", world_size=world_size, **(environ or {})))
        return started[-1]

    yield start_workers
    for workers in started:
        workers.kill()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_a_save_that_cannot_end_in_time_is_not_begun_and_the_one_under_way_is_finished(
    start: Callable[..., Workers], site: Site, proxy: FaultProxy, world_size: int
) -> None:
    proxy.rules(Rule(methods=("PUT",), path="/ckpt/", bytes_per_s=SLOW_BYTES_PER_S))
    endless = {"max_steps": 100_000}
    run = start(world_size=world_size, scratch=endless, checkpoint={"every_steps": 1_000_000, "every_seconds": 0.5})
    run.wait_for(lambda: len(run.events("checkpoint_committed")) >= 2)
    assert all(run.training_file(rank).exists() for rank in range(world_size)), "no launcher would hear that they train"
    save_s = run.events("checkpoint_committed")[-1]["seconds"]
    assert save_s > 2.0, "the store was not slow"
    run.wait_for(lambda: _saves_begun(proxy) > len(run.events("checkpoint_committed")))
    steps = len(run.events("train_interval"))
    run.wait_for(lambda: len(run.events("train_interval")) > steps + 1)  # what is being saved is of an older step
    before = site.history().usable_commits()[0].meta.step
    run.evict(in_s=1.25 * save_s)
    codes = run.wait()

    assert [ExitCode.TERMINATED] * world_size == codes, run.log()[-3000:]
    (told,) = run.events("stopped_unsaved")
    newest, known = site.history().usable_commits()[0].meta.step, told["checkpoint_step"]
    assert before < newest, "the save under way has become a commit"
    # It may become one while the process ends already; then more is said to be lost than is.
    assert known == run.result()["checkpoint_step"] <= newest
    assert told["steps_lost"] == told["step"] - known > 0
    assert f"since step {known} will be done again" in run.result()["message"]
    assert [] == run.events("stopped")

    proxy.clear()
    again = start(world_size=world_size, scratch=endless)
    again.wait_for(lambda: again.events("resumed"))
    assert newest == again.events("resumed")[-1]["step"]


@pytest.mark.slow
def test_with_time_enough_a_slow_save_is_waited_for(
    start: Callable[..., Workers], site: Site, proxy: FaultProxy
) -> None:
    proxy.rules(Rule(methods=("PUT",), path="/ckpt/", bytes_per_s=SLOW_BYTES_PER_S))
    run = start(scratch={"max_steps": 100_000}, checkpoint={"every_seconds": 1.0})
    run.wait_for(lambda: len(run.events("checkpoint_committed")) >= 1)
    save_s = run.events("checkpoint_committed")[-1]["seconds"]
    run.evict(in_s=5 * save_s + 10)

    assert [ExitCode.INTERRUPTED] == run.wait()
    (told,) = run.events("stopped")
    assert told["step"] == site.history().usable_commits()[0].meta.step == run.result()["checkpoint_step"]


@pytest.mark.slow
def test_a_grace_of_less_than_two_saves_is_warned_of_at_the_next_start(
    start: Callable[..., Workers], proxy: FaultProxy
) -> None:
    proxy.rules(Rule(methods=("PUT",), path="/ckpt/", bytes_per_s=SLOW_BYTES_PER_S))
    first = start(scratch={"max_steps": 100_000}, checkpoint={"every_steps": 1})
    first.wait_for(lambda: len(first.events("checkpoint_committed")) >= 2)
    first.evict(in_s=None)
    assert [ExitCode.INTERRUPTED] == first.wait()
    proxy.clear()
    again = start(scratch={"max_steps": 100_000}, environ={"SAM3FT_EVICTION_GRACE_S": "3"})
    again.wait_for(lambda: again.events("resumed"))
    again.kill()

    (warning,) = again.events("grace_short")
    assert 3.0 == warning["grace_s"] < 2 * warning["save_s"]
    assert "terminationGracePeriodSeconds" in warning["message"]


def _saves_begun(proxy: FaultProxy) -> int:
    """Count the checkpoints of which a file has been sent to the store."""
    puts = [request["target"] for request in proxy.requests() if request["method"] == "PUT"]
    return len({target.partition("/ckpt/")[2].partition("/")[0] for target in puts if "/ckpt/" in target})
