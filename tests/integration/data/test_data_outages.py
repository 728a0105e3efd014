"""A store that fails, stalls or stays away is waited for, or ends the run with the right code; nothing is skipped."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from data_bench import Twin, assert_equal, figures_of, steps_of
from s3_server import S3Server

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_api.exit_codes import ExitCode
from sam3ft_faults.proxy import FaultProxy
from sam3ft_faults.rules import Rule
from sam3ft_trainer.data.dataset import open_dataset
from sam3ft_trainer.data.pipeline import TrainLoader

Make = Callable[..., Twin]
IMAGES = r"/train/\d+\.jpg"


@pytest.fixture
def proxied(tmp_path: Path, own_server: S3Server) -> Iterator[tuple[Twin, FaultProxy]]:
    """A data set behind a proxy that passes everything on until it is told otherwise."""
    bucket = own_server.create_bucket("outages")
    with FaultProxy(own_server.endpoint) as proxy:
        yield Twin(tmp_path, own_server, bucket, endpoint=proxy.endpoint), proxy


FAULTS = {
    "server errors": Rule(fault="status", status=503, path=IMAGES, share=0.5, times=12),
    "resets within the body": Rule(fault="reset", at_byte=300, path=IMAGES, times=8),
    "an end within the body": Rule(fault="half-close", at_byte=300, path=IMAGES, times=8),
    "a stalled body": Rule(fault="stall", at_byte=300, path=IMAGES, times=2),
    "no answer": Rule(fault="blackhole", path=IMAGES, times=2),
    "a short answer that says so": Rule(fault="short", at_byte=300, path=IMAGES, times=8),
    "delays": Rule(delay_s=0.05, path=IMAGES),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_survived_and_changes_no_bit(fault: str, proxied: tuple[Twin, FaultProxy]) -> None:
    both, proxy = proxied
    both.profile = ("requestTimeoutSeconds: 2", "retries: 3")
    config, here = both.config(), both.config(str(both.folder))
    access = both.access(config)
    dataset = open_dataset(config, "train", access=access)
    proxy.rules(FAULTS[fault])
    began = time.monotonic()

    steps = steps_of(dataset, config, threads=2)

    assert time.monotonic() - began < 30
    proxy.clear()
    struck = {name: count for name, count in proxy.totals().items() if name.startswith("fault:")}
    assert struck or fault == "delays"
    assert_equal(steps_of(open_dataset(here, "train"), here), steps)


def test_a_server_that_comes_back_within_the_budget_is_waited_for(tmp_path: Path, own_server: S3Server) -> None:
    both = Twin(tmp_path, own_server, own_server.create_bucket("outages"))
    config = both.config(runtime={"outage_s": 60.0})
    access = both.access(config)
    dataset = open_dataset(config, "train", access=access)
    own_server.stop()
    back = threading.Timer(3.0, own_server.start)
    back.start()

    steps = steps_of(dataset, config)

    back.join()
    here = both.config(str(both.folder))
    assert_equal(steps_of(open_dataset(here, "train"), here), steps)
    assert figures_of(access)["fetched"] == both.count


def test_beyond_the_budget_the_run_ends_with_the_code_of_an_outage(tmp_path: Path, own_server: S3Server) -> None:
    both = Twin(tmp_path, own_server, own_server.create_bucket("outages"))
    both.profile = ("retries: 0",)
    config = both.config(runtime={"outage_s": 1.0})
    access = both.access(config)
    dataset = open_dataset(config, "train", access=access)
    own_server.stop()

    with pytest.raises(StorageUnavailable, match=r"s3://outages/set/train, object '\d+.jpg'") as end:
        steps_of(dataset, config)

    assert ExitCode.STORAGE_UNAVAILABLE == end.value.code
    assert figures_of(access)["retries"] >= 1


def test_a_loader_closes_at_once_while_the_store_stays_away(proxied: tuple[Twin, FaultProxy]) -> None:
    both, proxy = proxied
    both.profile = ("requestTimeoutSeconds: 4", "retries: 0")
    config = both.config(runtime={"outage_s": 600.0})
    dataset = both.open(config)
    proxy.rules(Rule(fault="blackhole", path=IMAGES))
    loader = TrainLoader(dataset, config, micro_batch=2)
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.append(next(loader, None)), daemon=True)
    waiting.start()
    time.sleep(0.5)
    began = time.monotonic()

    loader.close()

    assert time.monotonic() - began < 3
    waiting.join(5)
    assert (False, [None]) == (waiting.is_alive(), got)


def test_a_refusal_at_the_start_is_the_users_and_a_later_one_an_outage(proxied: tuple[Twin, FaultProxy]) -> None:
    both, proxy = proxied
    forbidden = Rule(fault="status", status=403, body="<Error><Code>AccessDenied</Code></Error>")
    config = both.config(runtime={"outage_s": 30.0})
    proxy.rules(forbidden)
    with pytest.raises(StorageDenied) as refusal:
        both.open(config)
    proxy.clear()
    access = both.access(config)
    dataset = open_dataset(config, "train", access=access)
    proxy.rules(Rule(fault="status", status=403, body=forbidden.body, for_s=2.0))

    steps = steps_of(dataset, config)

    assert ExitCode.STORAGE_DENIED == refusal.value.code
    assert len(dataset) == sum(len(step.image_ids) for step in steps)
    assert figures_of(access)["retries"] >= 1


def test_what_the_cache_holds_needs_no_store(tmp_path: Path, own_server: S3Server) -> None:
    both = Twin(tmp_path, own_server, own_server.create_bucket("outages"))
    config = both.config(runtime={"outage_s": 1.0})
    access = both.access(config, cache=tmp_path / "cache")
    dataset = open_dataset(config, "train", access=access)
    first = steps_of(dataset, config)
    before = figures_of(access)
    own_server.stop()

    again = steps_of(dataset, config)

    assert_equal(first, again)
    after = figures_of(access)
    assert (both.count, 0) == (before["fetched"], before["hits"])
    assert (0, both.count, 0) == (after["fetched"], after["hits"], after["retries"])
