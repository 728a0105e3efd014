"""Keeping the log while a run trains: soon after a commit, at the end, and never in anybody's way."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.errors import StorageUnavailable
from sam3ft_trainer.evaluate.report.build import SCORES
from sam3ft_trainer.run.chronicle import Chronicle, fuller
from sam3ft_trainer.store.kept_report import Keeping, read_events, read_report
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.uri import open_store

STARTED, RESUMED, INTERVAL = (
    json.dumps({"event": name}).encode() + b"\n" for name in ("started", "resumed", "train_interval")
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"), create=True)


class Bench:
    """A chronicle, and what it has told."""

    def __init__(self, store: Store, log: Path) -> None:
        self.log, self.told, self.prepared = log, [], 0
        log.touch()
        self.chronicle = Chronicle(Keeping(store, log, 1, 0), self.tell, before=self.prepare)

    def tell(self, name: str, **fields: Any) -> None:
        self.told.append((name, fields))

    def prepare(self, _: Keeping) -> None:
        self.prepared += 1

    def add(self, lines: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(lines)


@pytest.fixture
def bench(store: Store, tmp_path: Path) -> Bench:
    return Bench(store, tmp_path / "events.jsonl")


def test_a_nudge_keeps_what_has_been_logged(bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch):
    kept, keep = threading.Event(), Keeping.keep_log

    def keep_and_tell(self: Keeping) -> None:
        keep(self)
        if read_events(store):
            kept.set()

    monkeypatch.setattr(Keeping, "keep_log", keep_and_tell)
    bench.add(STARTED)
    bench.chronicle.nudge()

    assert kept.wait(30)
    assert STARTED == read_events(store)


def test_the_end_keeps_the_last_lines(bench: Bench, store: Store):
    bench.add(STARTED + INTERVAL)
    bench.chronicle.close()

    assert STARTED + INTERVAL == read_events(store)
    assert 1 == bench.prepared


def test_a_store_that_does_not_answer_is_told_once_and_asked_again(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise StorageUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", refuse)
        bench.add(STARTED)
        assert [False, False] == [bench.chronicle.keep(), bench.chronicle.keep()]
    assert [("events_not_kept", {"message": "no answer"})] == bench.told

    assert bench.chronicle.keep()
    assert STARTED == read_events(store)
    monkeypatch.setattr(store, "put", refuse)
    bench.add(INTERVAL)
    assert not bench.chronicle.keep()
    assert 2 == len(bench.told)


def test_a_store_that_hangs_holds_up_the_end_for_its_time_alone(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
):
    released = threading.Event()
    monkeypatch.setattr(store, "put", lambda *_: released.wait(60))
    bench.add(STARTED)

    bench.chronicle.close(0.05)

    assert bench.chronicle._thread.is_alive()
    released.set()


def test_the_whole_log_is_the_kept_one_when_the_run_began_elsewhere(bench: Bench, store: Store):
    store.put(f"report/000000/events-{0:012d}-{len(STARTED):012d}.jsonl", STARTED)
    bench.add(RESUMED + INTERVAL)

    assert STARTED + RESUMED + INTERVAL == bench.chronicle.whole_log()


def test_the_whole_log_is_this_machines_when_nothing_can_be_read(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise StorageUnavailable("no answer")

    bench.add(STARTED)
    assert bench.chronicle.keep()
    monkeypatch.setattr(store, "list_objects", refuse)

    assert STARTED == bench.chronicle.whole_log()
    assert ["events_not_kept"] == [name for name, _ in bench.told]


@pytest.mark.parametrize(
    ("here", "kept", "chosen"),
    [
        (STARTED, STARTED, "here"),
        (STARTED + RESUMED, STARTED, "here"),
        (RESUMED, STARTED + RESUMED, "kept"),
        (STARTED + b'{"event": "res', STARTED, "here"),
        (STARTED + b"[1]\n", b"", "here"),
    ],
)
def test_the_log_that_tells_of_more_starts_is_the_fuller_one(here: bytes, kept: bytes, chosen: str):
    here += b"\n" + b'{"where": "here"}\n'
    kept += b"\n" + b'{"where": "kept"}\n'

    assert chosen == json.loads(fuller(here, kept).splitlines()[-1])["where"]


def test_page_and_scores_of_the_end_are_kept(bench: Bench, store: Store, tmp_path: Path):
    (tmp_path / "report.html").write_text("<html>")
    (tmp_path / "scores.json").write_text("{}")

    bench.chronicle.keep_scores(tmp_path / "scores.json")
    bench.chronicle.keep_page(tmp_path / "report.html")

    kept = read_report(store)
    assert (b"<html>", {SCORES: b"{}"}) == (kept.page, kept.documents)


def test_page_and_scores_outlast_an_outage_and_nothing_that_goes_wrong_ends_the_run(
    bench: Bench, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "report.html").write_text("<html>")
    put, refusals = store.put, [StorageUnavailable("no answer"), StorageUnavailable("no answer")]

    def answer(key: str, content: bytes) -> None:
        if refusals:
            raise refusals.pop()
        put(key, content)

    monkeypatch.setattr(store, "put", answer)
    bench.chronicle.keep_page(tmp_path / "report.html")
    assert b"<html>" == read_report(store).page
    assert [] == bench.told

    bench.chronicle.keep_scores(tmp_path / "gone.json")
    assert ["events_not_kept"] == [name for name, _ in bench.told]
    monkeypatch.setattr(store, "put", lambda *_: (_ for _ in ()).throw(RuntimeError("a defect")))
    bench.add(STARTED)
    assert not bench.chronicle.keep()
    assert STARTED == bench.chronicle.whole_log()
