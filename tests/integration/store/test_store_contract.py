"""One contract for every store: what checkpoints and data rest on, tried on real servers."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_sites import Site

from sam3ft_api.errors import StorageDenied
from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.log import ClaimRequest, CommitLog
from sam3ft_trainer.store.objects import AlreadyExists, NotFound, Store, probe_fence
from sam3ft_trainer.store.opening import StoreOptions, open_claimed
from sam3ft_trainer.store.records import Owner, RunFacts
from sam3ft_trainer.store.survey import State, survey

RACERS = 64
LARGE = (24 << 20) + 12_345
CHECK_NOTHING = {"folder", "gs"}
"""Where a wrong Content-MD5 goes unnoticed: a folder has none, and the gate before `gs` drops it."""


def test_what_was_written_comes_back_whole_and_in_parts(store: Store):
    store.put("a/b.bin", b"0123456789")

    assert b"0123456789" == store.get("a/b.bin")
    assert b"345" == bytes(store.get_range("a/b.bin", 3, 3))
    assert b"89" == bytes(store.get_range("a/b.bin", 8, 100))
    assert b"" == bytes(store.get_range("a/b.bin", 10, 5))


def test_a_write_replaces_what_was_there(store: Store):
    store.put("a", b"old")

    store.put("a", b"newer")

    assert (b"newer", 5) == (store.get("a"), store.head("a").size)


def test_head_list_and_get_say_the_same_about_an_object(store: Store):
    before = time.time()
    store.put("a/b", b"12345")

    head, (listed,), (_, got) = store.head("a/b"), store.list_objects("a"), store.get_with_info("a/b")

    assert ("a/b", 5) == (head.key, head.size) == (listed.key, listed.size) == (got.key, got.size)
    assert head.etag == listed.etag == got.etag != ""
    assert abs(head.modified_unix_s - before) < 60


def test_a_changed_object_has_another_etag(store: Store):
    store.put("a", b"one")
    first = store.head("a").etag
    store.put("a", b"two")

    assert first != store.head("a").etag


def test_what_is_missing_is_not_found(store: Store):
    for ask in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
        with pytest.raises(NotFound):
            ask("missing/key")


def test_a_list_is_complete_at_once_sorted_and_of_whole_parts(store: Store):
    keys = [f"many/{number:03d}" for number in range(40)]
    for key in (*reversed(keys), "manyfold", "many-more/x"):
        store.put(key, b"x")

    assert keys == [info.key for info in store.list_objects("many")]
    assert [] == store.list_objects("unknown")


def test_more_objects_than_one_answer_of_a_list_holds_are_listed(site: Site, store: Store):
    keys = [f"many/{number:04d}" for number in range(1_100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))

    assert keys == [info.key for info in store.list_objects("many")]

    store.delete_prefix("many")

    assert [] == store.list_objects("many")


@pytest.mark.parametrize("key", ["with space", "plus+and%20", "ünïcode-ß", "a=b&c", "quote'", "tilde~"])
def test_a_name_is_kept_as_it_is(store: Store, key: str):
    store.put(f"names/{key}.jpg", key.encode())

    assert key.encode() == store.get(f"names/{key}.jpg")
    assert [f"names/{key}.jpg"] == [info.key for info in store.list_objects("names")]


def test_of_many_racing_creators_exactly_one_wins(store: Store):
    start = threading.Barrier(RACERS)

    def create(number: int) -> int | None:
        start.wait(60)
        try:
            store.put_if_absent("race", str(number).encode())
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(RACERS) as pool:
        winners = [number for number in pool.map(create, range(RACERS)) if number is not None]

    assert 1 == len(winners)
    assert str(winners[0]).encode() == store.get("race")


def test_a_taken_key_keeps_its_object(store: Store):
    store.put_if_absent("once", b"first")

    with pytest.raises(AlreadyExists):
        store.put_if_absent("once", b"second")
    assert b"first" == store.get("once")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_large_object_comes_back_whole(store: Store, tmp_path: Path, kind: str):
    data = os.urandom(LARGE)
    (tmp_path / "file").write_bytes(data)

    store.put("large", memoryview(data) if kind == "memory" else tmp_path / "file")

    assert LARGE == store.head("large").size
    assert data == store.get("large")
    assert data[-1000:] == bytes(store.get_range("large", LARGE - 1000, 5000))
    if store.address.startswith("s3://"):
        assert store.head("large").etag.endswith("-2")  # so many pieces


def test_a_large_object_is_seen_whole_or_not_at_all(store: Store):
    data, sizes, done = os.urandom(LARGE), set(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                sizes.add(store.head("large").size)
            except NotFound:
                sizes.add(None)
            sizes.update(info.size for info in store.list_objects("large"))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        store.put("large", data)
        done.set()
        watching.result()

    assert None in sizes
    assert sizes <= {None, LARGE}


def test_a_prefix_is_deleted_with_everything_below_it_and_nothing_beside_it(store: Store):
    for key in ("gone/a", "gone/deep/b", "gone-not/c"):
        store.put(key, b"x")

    store.delete_prefix("gone")
    store.delete_prefix("gone")

    assert ["gone-not/c"] == [info.key for info in store.list_objects("")]


def test_deleting_what_is_gone_is_no_error(store: Store):
    store.put("a", b"x")

    store.delete(["a", "never", "a"])

    assert [] == store.list_objects("")


def test_child_prefixes_are_listed(store: Store):
    for key in ("ckpt/g1/a", "ckpt/g2/deep/b", "ckpt/file"):
        store.put(key, b"x")

    assert ["ckpt/g1", "ckpt/g2"] == [info.prefix for info in store.list_prefixes("ckpt")]


def test_the_probe_passes_and_leaves_nothing(store: Store):
    probe_fence(store, allow_unfenced=False)

    assert store.fenced
    assert [] == store.list_objects("")


def test_the_survey_finds_everything_that_checkpoints_need_and_leaves_nothing(site: Site):
    place = site.fresh()

    found = survey(place.address, site.access())

    assert ([], "") == (found.missing, found.reason)
    assert {State.YES} == {finding.state for finding in found.findings if finding.needed}
    assert [] == place.list_objects("")
    assert {"read_mb_s", "write_mb_s", "read_p50_ms", "write_p99_ms"} <= found.speed.keys()
    (digest,) = [finding.state for finding in found.findings if finding.name == "damage on the way is refused"]
    assert (State.NO if site.name in CHECK_NOTHING else State.YES) is digest


def test_a_missing_bucket_is_refused_by_every_request_and_named(site: Site):
    if site.name == "folder":
        with pytest.raises(StorageDenied, match="does not exist; check the address"):
            site.open_at(site.missing)
        return
    store = site.open_at(f"{site.missing}/run")

    for ask in _requests(store):
        with pytest.raises(StorageDenied, match=r"no such bucket; check the address,.*status 404") as error:
            ask()
        assert StorageDenied is type(error.value)


def test_wrong_credentials_are_refused_by_every_request(site: Site):
    for kind, variables in site.wrong.items():
        store = site.but(variables=variables).open("run")
        for ask in _requests(store):
            with pytest.raises(StorageDenied) as error:
                ask()
            assert StorageDenied is type(error.value), kind


def test_a_missing_bucket_ends_a_run_at_once_with_13(site: Site):
    began = time.monotonic()

    with pytest.raises(StorageDenied):
        open_claimed(
            CheckpointConfig(uri=f"{site.missing}/file/run" if site.name != "folder" else "/proc/none"),
            _request(),
            rank=0,
            exchange=LocalExchange(),
            options=StoreOptions(outage_s=900, access=site.access()),
        )
    assert time.monotonic() - began < 20


def test_two_runs_that_claim_at_once_are_fenced_from_each_other(store: Store):
    first, second = CommitLog(store, outage_s=5), CommitLog(store, outage_s=5)

    earlier, later = first.claim(_request()), second.claim(_request())

    assert (1, 2) == (earlier.gen, later.gen)
    assert 2 == len(store.list_objects("log"))


def _requests(store: Store) -> list[object]:
    return [
        lambda: store.get("a"),
        lambda: store.get_range("a", 0, 1),
        lambda: store.head("a"),
        lambda: store.put("a", b"x"),
        lambda: store.put("a", bytes(9 << 20)),
        lambda: store.put_if_absent("a", b"x"),
        lambda: store.list_objects("a"),
        lambda: store.delete(["a"]),
    ]


def _request() -> ClaimRequest:
    facts = RunFacts(task="detection", numbers_digest="n" * 64, dataset_digest="d" * 64, model_digest="m" * 64)
    identity = IdentityConfig()
    return ClaimRequest(Owner(uid=identity.uid, name=identity.name), facts, resume="auto", adopt=False, world_size=1)
