"""The resources: kopf's watch is begun anew whatever ends it, and lists put right what it has missed."""

from typing import Any

import kopf
import pytest
from engine_bench import UID, FakeApi
from waiting import wait_until

from sam3ft_operator.finetunes import FineTuneLists, FineTuneWatch
from sam3ft_operator.store import ResourceStore


def resource(*, version: int, uid: str = UID) -> dict[str, Any]:
    """Return a resource."""
    return {"metadata": {"name": "blood", "namespace": "lab", "uid": uid, "resourceVersion": str(version)}}


def test_kopf_is_run_anew_whatever_has_ended_it(monkeypatch: pytest.MonkeyPatch) -> None:
    api: Any = FakeApi()
    store, ended = ResourceStore(changed=lambda _: None), []
    watch = FineTuneWatch(api, namespace="lab", store=store, ended=lambda: ended.append(watch.restarts))
    ends: list[Exception | None] = [ValueError("a line that was cut"), RuntimeError("an event that says 500"), None]
    waits: list[float] = []

    def run(**_: Any) -> None:
        end = ends.pop(0) if ends else watch.stop()
        if end is not None:
            raise end

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return watch._stop_flag.is_set()

    monkeypatch.setattr(kopf, "run", run)
    monkeypatch.setattr(watch._stop_flag, "wait", wait)
    watch.run()

    assert 3 == watch.restarts
    assert [1.0, 2.0, 4.0] == waits[:3]
    assert [0, 1, 2] == ended


def test_kopf_does_not_ask_for_a_user_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the user is a number without a name; kopf would end at once, again and again."""
    api: Any = FakeApi()
    watch = FineTuneWatch(api, namespace="lab", store=ResourceStore(changed=lambda _: None), ended=lambda: None)
    asked: list[dict[str, Any]] = []

    def run(**options: Any) -> None:
        asked.append(options)
        watch.stop()

    monkeypatch.setattr(kopf, "run", run)
    watch.run()
    assert "sam3ft-operator" == asked[0]["identity"]


def test_a_list_that_is_hurried_does_not_wait() -> None:
    api: Any = FakeApi(pages=[{"metadata": {"resourceVersion": "5"}, "items": []} for _ in range(2)])
    lists = FineTuneLists(api, namespace="lab", store=ResourceStore(changed=lambda _: None), resync_s=3600.0)
    lists.start()
    wait_until(lambda: len(api.queries) == 1)
    lists.hurry()
    wait_until(lambda: len(api.queries) == 2)
    lists.stop()
    lists.join(10.0)

    assert not lists.is_alive()


def test_a_list_shows_what_a_watch_has_missed() -> None:
    told: list[str] = []
    store = ResourceStore(changed=told.append)
    first = {"metadata": {"resourceVersion": "5"}, "items": [resource(version=3, uid="gone"), resource(version=4)]}
    second = {"metadata": {"resourceVersion": "9"}, "items": [resource(version=8)]}
    api: Any = FakeApi(pages=[first, second])
    lists = FineTuneLists(api, namespace="lab", store=store)
    lists.list_once()
    assert 0 == lists.corrections
    lists.list_once()

    assert 2 == lists.corrections
    assert ["8"] == [it["metadata"]["resourceVersion"] for it in store.all()]
