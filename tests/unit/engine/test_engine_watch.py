"""List and watch of children, with streams that a test makes."""

from typing import Any

import pytest
from engine_bench import UID, FakeApi, child, page

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import SERVICE
from sam3ft_operator.store import ChildStore
from sam3ft_operator.watch import PAGE, SELECTOR, Watch

GONE = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


def event(what: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return one event of a watch."""
    return {"type": what, "object": body}


def bookmark(version: int) -> dict[str, Any]:
    """Return a bookmark."""
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def watched(api: FakeApi, *, turns: int) -> tuple[list[str], Watch]:
    """Return the names that are known after so many turns."""
    store = ChildStore([SERVICE.name], changed=lambda _: None)
    fake: Any = api
    watch = Watch(fake, SERVICE, namespace="lab", store=store)
    watch._wait = lambda _seconds=0.0: None  # type: ignore[method-assign,misc]  # no test waits
    for _ in range(turns):
        try:
            watch._turn()
        except ApiProblem as problem:
            watch._after(problem)
    return [name for _, name, _ in store.of_run("lab", UID)], watch


def test_a_list_comes_in_pages_by_label_and_the_watch_begins_where_it_ended() -> None:
    api = FakeApi(
        pages=[page(child("Service", "a"), version=7, more="next"), page(child("Service", "b"), version=7)],
        streams=[[event("ADDED", child("Service", "c", version=8))]],
    )
    found, watch = watched(api, turns=1)

    assert ["a", "b", "c"] == found
    assert [
        {"labelSelector": SELECTOR, "limit": PAGE},
        {"labelSelector": SELECTOR, "limit": PAGE, "continue": "next"},
    ] == api.queries[:2]
    assert ("7", SELECTOR) == (api.queries[2]["resourceVersion"], api.queries[2]["labelSelector"])
    assert api.queries[2]["timeoutSeconds"] <= 300
    assert watch.is_synced


def test_the_next_watch_goes_on_after_the_last_bookmark() -> None:
    api = FakeApi(pages=[page(version=7)], streams=[[bookmark(90)], []])
    watched(api, turns=2)

    assert ["7", "90"] == [query["resourceVersion"] for query in api.queries[1:]]


def test_a_deleted_object_is_forgotten() -> None:
    api = FakeApi(
        pages=[page(child("Service", "a", version=3), version=7)],
        streams=[[event("DELETED", child("Service", "a", version=9))]],
    )

    assert [] == watched(api, turns=1)[0]


@pytest.mark.parametrize("ending", [GONE, ApiProblem(410, "Expired", "too old")])
def test_a_version_that_is_too_old_is_listed_anew(ending: Any) -> None:
    api = FakeApi(
        pages=[page(child("Service", "a"), version=7), page(child("Service", "b", version=40), version=50)],
        streams=[[ending], []],
    )
    found, watch = watched(api, turns=2)

    assert ["b"] == found
    assert 2 == watch.relists


def test_a_stream_that_breaks_goes_on_without_a_list() -> None:
    api = FakeApi(
        pages=[page(version=7)],
        streams=[
            [event("ADDED", child("Service", "a", version=8)), ApiProblem(0, "Broken", "")],
            [event("ADDED", child("Service", "b", version=9))],
        ],
    )
    found, watch = watched(api, turns=2)

    assert ["a", "b"] == found
    assert (1, "8") == (watch.relists, api.queries[2]["resourceVersion"])


def test_a_list_that_breaks_off_between_pages_begins_anew() -> None:
    api = FakeApi(
        pages=[page(child("Service", "a"), version=7, more="next"), page(child("Service", "a"), version=9)],
        streams=[[]],
    )

    def once(verb: str, *_: str) -> None:
        if verb == "list" and len(api.queries) == 1:
            api.queries.append({})
            raise ApiProblem(410, "Expired", "")

    api.refuse = once
    found, watch = watched(api, turns=2)

    assert ["a"] == found
    assert watch.is_synced


def test_streams_that_end_at_once_are_not_begun_without_pause() -> None:
    store = ChildStore([SERVICE.name], changed=lambda _: None)
    fake: Any = FakeApi(pages=[page(version=7)], streams=[[], [], []])
    watch = Watch(fake, SERVICE, namespace="lab", store=store, clock=lambda: 100.0)
    waits: list[float] = []
    watch._stopping.wait = waits.append  # type: ignore[method-assign,assignment]
    for _ in range(3):
        watch._turn()

    assert 3 == len(waits)
    assert waits[0] <= 0.2 < waits[2] <= 0.8


def test_the_age_of_the_last_sign_is_known() -> None:
    now_s = 100.0
    store = ChildStore([SERVICE.name], changed=lambda _: None)
    fake: Any = FakeApi(pages=[page(version=7)], streams=[[bookmark(8)], []])
    watch = Watch(fake, SERVICE, namespace="", store=store, clock=lambda: now_s)
    now_s = 130.0
    assert 30.0 == watch.silence_s
    watch._turn()
    assert 0.0 == watch.silence_s
    now_s = 190.0
    watch._turn()

    assert 60.0 == watch.silence_s


def test_back_off_doubles_up_to_a_bound_and_is_spread() -> None:
    fake: Any = FakeApi()
    watch = Watch(fake, SERVICE, namespace="", store=ChildStore([SERVICE.name], changed=lambda _: None))
    waits: list[float] = []
    watch._stopping.wait = waits.append  # type: ignore[method-assign,assignment]
    for _ in range(10):
        watch._wait()

    assert 0.1 <= waits[0] <= 0.2
    assert 0.8 <= waits[3] <= 1.6
    assert max(waits) <= 15.0
    assert waits[-1] >= 7.5
