"""A real run with data and checkpoints in a bucket meets what stores do to their clients, and loses nothing by it."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_bench import Bench, Ended, Undisturbed, assert_each_image_of_each_epoch_once, kill_whole_run
from outage_bench import QUICK_CLIENT, OutageBench, credentials_folder, outage_bench, places_of, with_folder
from s3_server import S3Server

from sam3ft_api.exit_codes import ExitCode
from sam3ft_faults.record import Figures
from sam3ft_faults.rules import Rule, slow_down

pytestmark = pytest.mark.timeout(1800)
Make = Callable[[int], Bench]
Runs = Callable[[int], Undisturbed]


@pytest.fixture
def site(s3_server: S3Server, s3_bucket: str, like: Make) -> Iterator[OutageBench]:
    """Two processes, a client that notices a stall within seconds."""
    with outage_bench(s3_server, s3_bucket, like(2), client=QUICK_CLIENT) as bench:
        yield bench


def assert_as_undisturbed(undisturbed: Undisturbed, site: OutageBench, name: str, ended: Ended) -> None:
    ended.succeeded()
    steps = undisturbed.bench.steps
    assert undisturbed.ended.state(steps) == site.state(name, steps)
    assert undisturbed.ended.weights() == ended.weights()
    expected = assert_each_image_of_each_epoch_once(undisturbed.ended.folder, steps=steps, world_size=2)
    assert expected == assert_each_image_of_each_epoch_once(ended.folder, steps=steps, world_size=2)
    assert_no_secret(site, ended)


def assert_no_secret(site: OutageBench, *ends: Ended, secrets: tuple[str, ...] = ()) -> None:
    keys = (site.server.access_key, site.server.secret_key, *secrets)
    assert [] == places_of(keys, *(end.folder for end in ends), texts=tuple(end.output for end in ends))


def check(undisturbed: Undisturbed, site: OutageBench, *rules: Rule, after_step: int = 2) -> OutageBench:
    """The run is struck by the rules after a step, and ends as if nothing had happened."""
    ended = site.run_struck("struck", lambda: site.proxy.rules(*rules), after_step=after_step)

    assert_as_undisturbed(undisturbed, site, "struck", ended)
    assert [] == ended.ends, "workers had to be started again"
    return site


def struck_methods(site: OutageBench) -> set[str]:
    return {request["method"] for request in site.proxy.requests() if request["struck"]}


@pytest.mark.slow
def test_a_storm_of_503_holds_the_run_up_and_changes_no_bit(undisturbed: Runs, site: OutageBench):
    check(undisturbed(2), site, slow_down(for_s=12.0))

    assert {"GET", "PUT"} & struck_methods(site)


@pytest.mark.slow
def test_answers_and_requests_that_are_cut_or_spoilt_change_no_bit(undisturbed: Runs, site: OutageBench):
    rules = (
        Rule(fault="reset", methods=("GET",), path=r"\.jpg", at_byte=3000, share=0.3),
        Rule(fault="corrupt", methods=("GET",), path=r"/ckpt/", at_byte=2000, times=1),
        Rule(fault="reset-request", methods=("PUT",), path=r"/ckpt/", at_byte=9000, times=2),
        Rule(fault="lose-response", methods=("PUT",), share=0.25),
    )
    check(undisturbed(2), site, *rules, after_step=1)

    assert all(count > 0 for count in site.proxy.struck()[2:])


@pytest.mark.slow
def test_an_outage_beyond_the_budget_ends_with_22_and_the_run_can_go_on(undisturbed: Runs, site: OutageBench):
    site.bench.restarts = 0
    site.bench.runtime["outage_s"] = 5
    site.bench.more["failurePolicy.maxWithoutProgress"] = 1

    ended = site.run_struck("struck", site.proxy.refuse)
    site.proxy.accept()
    again = site.run("struck")

    assert ExitCode.STORAGE_UNAVAILABLE == ended.code, ended.output[-3000:]
    assert "Traceback" not in ended.output
    assert_no_secret(site, ended)
    assert_as_undisturbed(undisturbed(2), site, "struck", again)


@pytest.mark.slow
def test_wrong_credentials_at_the_start_are_the_users_to_mend(site: OutageBench):
    secret = "wrong-secret-0123456789abcdef"  # noqa: S105 - opens nothing
    site.environment["AWS_SECRET_ACCESS_KEY"] = secret

    ended = site.run("denied")

    assert ExitCode.STORAGE_DENIED == ended.code, ended.output
    assert "Traceback" not in ended.output
    assert_no_secret(site, ended, secrets=(secret,))


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that a test may restart with other keys."""
    folder = tmp_path_factory.mktemp("own") / "buckets"
    folder.mkdir()
    with S3Server(folder) as server:
        yield server


def rotate(server: S3Server) -> tuple[str, str]:
    """Restart a server with other keys; returns the old ones."""
    old = server.access_key, server.secret_key
    server.stop()
    server.access_key, server.secret_key = f"{old[0][:-4]}next", f"{old[1][:-4]}next"
    server.start()
    return old


@pytest.mark.soak
def test_keys_that_are_rotated_are_read_again_from_their_folder(
    undisturbed: Runs, like: Make, own_server: S3Server, tmp_path: Path
):
    own_server.create_bucket("rotated")
    secrets = credentials_folder(tmp_path / "secret", own_server.access_key, own_server.secret_key)
    with outage_bench(own_server, "rotated", like(2), client=QUICK_CLIENT) as site:
        site.environment = with_folder(site.environment, secrets)
        old: list[str] = []

        def strike() -> None:
            old.extend(rotate(own_server))
            credentials_folder(secrets, own_server.access_key, own_server.secret_key)

        ended = site.run_struck("struck", strike)

        assert_as_undisturbed(undisturbed(2), site, "struck", ended)
        assert_no_secret(site, ended, secrets=tuple(old))


@pytest.mark.soak
def test_keys_that_expire_and_are_not_renewed_are_an_outage_and_no_verdict(
    undisturbed: Runs, like: Make, own_server: S3Server, tmp_path: Path
):
    own_server.create_bucket("expired")
    secrets = credentials_folder(tmp_path / "secret", own_server.access_key, own_server.secret_key)
    with outage_bench(own_server, "expired", like(2), client=QUICK_CLIENT) as site:
        site.environment = with_folder(site.environment, secrets)
        site.bench.restarts, site.bench.runtime["outage_s"] = 0, 5
        site.bench.more["failurePolicy.maxWithoutProgress"] = 1
        # Before the first commit a refusal is the user's to mend (13), later it is an outage.
        ended = site.run_struck("struck", lambda: rotate(own_server), event="checkpoint_committed")
        credentials_folder(secrets, own_server.access_key, own_server.secret_key)
        again = site.run("struck")

        assert ExitCode.STORAGE_UNAVAILABLE == ended.code, ended.output[-3000:]
        assert_no_secret(site, ended)
        assert_as_undisturbed(undisturbed(2), site, "struck", again)


SOAK: dict[str, tuple[Rule, ...]] = {
    "503 for two minutes": (slow_down(for_s=120.0),),
    "half of all requests 503": (slow_down(share=0.5),),
    "50 KB/s": (Rule(bytes_per_s=50_000.0, for_s=60.0),),
    "stalled bodies": (Rule(fault="stall", methods=("GET",), at_byte=1000, share=0.3, for_s=40.0),),
    "blackhole": (Rule(fault="blackhole", share=0.3, for_s=40.0),),
    "half-closed bodies": (Rule(fault="half-close", methods=("GET",), at_byte=1000, share=0.4),),
    "short images": (Rule(fault="short", methods=("GET",), path=r"\.jpg", at_byte=1000, times=6),),
    "lost answers": (Rule(fault="lose-response", share=0.2),),
    "slow answers": (Rule(delay_s=0.5),),
}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SOAK)
def test_what_a_store_may_do_for_minutes_changes_no_bit(
    name: str, undisturbed: Runs, s3_server: S3Server, s3_bucket: str, like: Make, figures: Figures
):
    client: dict[str, Any] = {} if name in {"503 for two minutes", "50 KB/s"} else QUICK_CLIENT
    with outage_bench(s3_server, s3_bucket, like(2), client=client) as site:
        check(undisturbed(2), site, *SOAK[name])

        struck = sum(site.proxy.struck())
        assert struck > 0
        figures.add("outages of the store, two ranks", seed=name, spoilt_requests=struck, different_bits=0)


@pytest.mark.soak
def test_a_store_that_is_gone_for_a_while_is_waited_for(undisturbed: Runs, site: OutageBench):
    process = site.start("struck")
    try:
        site.wait_for(process, "struck", "train_interval", step=2)
        site.proxy.refuse()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(30.0)
        site.proxy.accept()
        ended = site.finish("struck", process)
    finally:
        kill_whole_run(process)

    assert_as_undisturbed(undisturbed(2), site, "struck", ended)


def test_a_key_that_is_written_anywhere_would_be_found(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/log").write_text("GET with AKIA-CANARY and more")
    (tmp_path / "clean").write_text("nothing")

    found = places_of(("AKIA-CANARY", "other"), tmp_path, texts=("clean", "an other word"))

    assert [str(tmp_path / "deep/log"), "text 1"] == found
