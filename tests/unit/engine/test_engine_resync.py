"""Complete lists beside the watches."""

import itertools
from typing import Any

import pytest
from engine_bench import UID, FakeApi, child, page

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import JOB, SERVICE
from sam3ft_operator import watch
from sam3ft_operator.resync import Resync
from sam3ft_operator.store import Child, ChildStore


class Clock:
    """Time that a test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def resync_of(api: FakeApi, clock: Clock) -> tuple[Resync, ChildStore, list[float]]:
    """Return lists of two kinds every 60 s, what they fill, and the pauses they make; a pause moves the clock."""
    store = ChildStore([SERVICE.name, JOB.name], changed=lambda _: None)
    fake: Any = api
    resync = Resync(fake, [SERVICE, JOB], namespace="lab", store=store, resync_s=60.0, clock=clock)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock.now_s += seconds
        if sum(pauses) > 100.0:
            resync.stop()

    resync._stopping.wait = pause  # type: ignore[method-assign,assignment]
    return resync, store, pauses


def test_what_a_watch_has_kept_back_is_seen() -> None:
    resync, store, _ = resync_of(FakeApi(pages=[page(child("Service", "a", version=8), version=9)]), Clock())
    resync.list_once(SERVICE)

    assert ["a"] == [name for _, name, _ in store.of_run("lab", UID)]
    assert (1, {SERVICE: 1, JOB: 0}) == (resync.corrections, resync.lists)


def test_every_kind_is_listed_within_the_time_and_none_at_the_start() -> None:
    api, clock = FakeApi(pages=[page(version=n) for n in range(7, 99)]), Clock()
    asked: list[tuple[float, str]] = []
    api.refuse = lambda _verb, kind, _name: asked.append((clock.now_s, kind))
    resync, _, _ = resync_of(api, clock)
    resync.run()

    for kind in ("Service", "Job"):
        times = [100.0, *(at_s for at_s, what in asked if what == kind)]
        assert all(48.0 <= after - before <= 60.1 for before, after in itertools.pairwise(times))
        assert 2 <= len(times)


def test_between_pages_it_rests_four_times_as_long_as_a_page_took() -> None:
    clock = Clock()
    api = FakeApi(pages=[page(version=7, more="a"), page(version=7, more="b"), page(version=7)])
    took_s = iter((0.5, 4.0, 0.1))

    def answer(*_: str) -> None:
        clock.now_s += next(took_s)

    api.refuse = answer
    resync, _, pauses = resync_of(api, clock)
    resync.list_once(SERVICE)

    assert [2.0, 10.0] == pauses


def test_what_the_watch_shows_meanwhile_is_newer_than_the_list() -> None:
    api, clock = FakeApi(), Clock()
    resync, store, _ = resync_of(api, clock)
    for name in ("removed", "kept"):
        store.put("Service", ("lab", name), Child(UID, 3, None))
    listed = [child("Service", name, version=3) for name in ("removed", "kept")]
    api.pages = [page(*listed, version=7, more="next"), page(version=7)]

    def happen(*_: str) -> None:
        if len(api.calls) == 2:
            store.remove("Service", ("lab", "removed"), version=8)
            store.put("Service", ("lab", "added"), Child(UID, 9, None))

    api.refuse = happen
    resync.list_once(SERVICE)

    assert ["added", "kept"] == [name for _, name, _ in store.of_run("lab", UID)]
    assert 0 == resync.corrections


def test_what_is_known_at_its_version_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [child("Service", "a", version=3), child("Service", "b", version=8)]
    read: list[str] = []
    really = watch.child_of
    monkeypatch.setattr(
        watch, "child_of", lambda kind, body: read.append(body["metadata"]["name"]) or really(kind, body)
    )
    resync, store, _ = resync_of(FakeApi(pages=[page(*bodies, version=9)]), Clock())
    store.put("Service", ("lab", "a"), Child(UID, 3, None))
    resync.list_once(SERVICE)

    assert ["b"] == read
    assert ["a", "b"] == [name for _, name, _ in store.of_run("lab", UID)]


@pytest.mark.parametrize("problem", [ApiProblem(410, "Expired", "too old"), ApiProblem(503, "", ""), KeyError("a")])
def test_a_list_that_fails_is_due_again_soon_and_leaves_what_is_known(
    problem: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    api, clock = FakeApi(pages=[page(child("Service", "b"), version=7, more="next")]), Clock()
    resync, store, _ = resync_of(api, clock)
    store.put("Service", ("lab", "a"), Child(UID, 3, None))

    def refuse(*_: str) -> None:
        if len(api.calls) == 2:
            raise problem

    api.refuse = refuse
    resync.list_once(SERVICE)

    assert ["a"] == [name for _, name, _ in store.of_run("lab", UID)]
    assert 15.0 == resync._due_s[SERVICE] - clock.now_s
    assert "list of services" in caplog.text
    assert {} == store._removed


def test_a_thread_that_does_not_come_back_is_noticed() -> None:
    clock = Clock()
    resync, _, _ = resync_of(FakeApi(), clock)
    assert not resync.is_stuck
    resync.run = lambda: None  # type: ignore[method-assign]
    resync.start()
    resync.join()

    assert resync.is_stuck
