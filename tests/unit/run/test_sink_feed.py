"""The queue before a sink: it never holds up the run, and counts every value once."""

import queue
import threading
import time
from pathlib import Path

import pytest
from waiting import wait_for

from sam3ft_trainer.run.sinks.feed import MAX_PAUSE_S, TRIES, Feed, SinkCounts, pause_s
from sam3ft_trainer.run.sinks.sink import Point, SinkContext, SinkUnusable
from sam3ft_trainer.run.sinks.words import speaker

HELD_S = 30.0
"""Bound of waits that end at once unless something is broken."""


class Scripted:
    """A sink that does what it is told; `gate` holds it up until it is set."""

    def __init__(
        self, *, opens: tuple[BaseException | None, ...] = (), takes: tuple[Exception | None, ...] = ()
    ) -> None:
        self.gate, self.opening = threading.Event(), threading.Event()
        self.gate.set()
        self.opening.set()
        self.opens, self.takes = list(opens), list(takes)
        self.entered: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.taken: list[int] = []
        self.opened = 0
        self.closed: bool | None = None
        self.thread: threading.Thread | None = None

    def open(self, context: SinkContext) -> None:  # noqa: ARG002 - as every sink's
        self.opened += 1
        self.thread = threading.current_thread()
        assert self.opening.wait(HELD_S)
        if error := self.opens.pop(0) if self.opens else None:
            raise error

    def scalars(self, point: Point) -> None:
        self.entered.put(point.step)
        assert self.gate.wait(HELD_S)
        if error := self.takes.pop(0) if self.takes else None:
            raise error
        self.taken.append(point.step)

    def close(self, *, is_complete: bool) -> None:
        self.closed = is_complete


def fed(sink: Scripted, tmp_path: Path, *, capacity: int = 8, pause: float = 0.0) -> Feed:
    context = SinkContext("blood", "u1", "0" * 32, 1, "sam3ft", tmp_path)
    return Feed("otlp", sink, context, words=speaker(["hunter22"]), capacity=capacity, pause=lambda _failures: pause)


def point(step: int, values: int = 2) -> Point:
    return Point(step, 1_764_000_000.0 + step, {f"terms/{number}": 0.5 for number in range(values)})


def ended(feed: Feed, *, within_s: float = HELD_S) -> SinkCounts:
    feed.finish(is_complete=True)
    feed.leave(within_s)
    return feed.counts()


def test_values_arrive_in_order_and_the_sink_is_closed_in_its_own_thread(tmp_path: Path):
    sink = Scripted()
    feed = fed(sink, tmp_path)
    for step in range(5):
        feed.offer(point(step))

    counts = ended(feed)

    assert (SinkCounts(sent=10, lost=0), [0, 1, 2, 3, 4], True) == (counts, sink.taken, sink.closed)
    assert [] == feed.news()
    assert sink.thread not in (None, threading.current_thread())


def test_a_run_without_curves_never_opens_its_sink(tmp_path: Path):
    sink = Scripted()

    assert SinkCounts(0, 0) == ended(fed(sink, tmp_path))
    assert (0, None) == (sink.opened, sink.closed)


def test_a_loop_goes_on_while_the_sink_stands_still(tmp_path: Path):
    sink = Scripted()
    sink.gate.clear()
    feed = fed(sink, tmp_path, capacity=4)
    feed.offer(point(0))
    assert 0 == sink.entered.get(timeout=HELD_S)  # the thread is in the library, which does not answer

    for step in range(1, 11):
        feed.offer(point(step))

    assert SinkCounts(sent=0, lost=12) == feed.counts()  # four wait, the six newest have no place
    sink.gate.set()
    assert SinkCounts(sent=10, lost=12) == ended(feed)
    assert [0, 1, 2, 3, 4] == sink.taken


def test_a_loop_goes_on_while_the_library_is_imported(tmp_path: Path):
    sink = Scripted()
    sink.opening.clear()
    feed = fed(sink, tmp_path)
    for step in range(3):
        feed.offer(point(step))

    assert SinkCounts(0, 0) == feed.counts()
    sink.opening.set()
    assert SinkCounts(sent=6, lost=0) == ended(feed)


def test_a_full_queue_is_told_at_the_first_second_fourth_and_eighth_time(tmp_path: Path):
    sink = Scripted()
    sink.gate.clear()
    feed = fed(sink, tmp_path, capacity=1)
    feed.offer(point(0))
    sink.entered.get(timeout=HELD_S)
    feed.offer(point(1))

    for step in range(2, 14):
        feed.offer(point(step))

    news = feed.news()
    assert [(1, 2), (2, 4), (4, 8), (8, 16)] == [(told["failures"], told["lost"]) for told in news]
    assert "slower than the run" in news[0]["message"]
    assert [] == feed.news()
    sink.gate.set()
    ended(feed)


def test_an_opening_that_fails_is_tried_again_and_nothing_is_lost(tmp_path: Path):
    sink = Scripted(opens=(OSError("no route"), OSError("no route"), None))
    feed = fed(sink, tmp_path)
    feed.offer(point(0))
    wait_for("the value is taken", lambda: sink.taken == [0], within_s=HELD_S)

    assert SinkCounts(sent=2, lost=0) == ended(feed)
    assert (3, ["OSError: no route"] * 2) == (sink.opened, [told["message"] for told in feed.news()])


def test_what_cannot_be_opened_is_not_tried_again_and_loses_everything(tmp_path: Path):
    sink = Scripted(opens=(SinkUnusable("install it with: pip install 'sam3ft[otlp]'"),))
    sink.opening.clear()
    feed = fed(sink, tmp_path)
    feed.offer(point(0))
    feed.offer(point(1))
    sink.opening.set()
    wait_for("it has given up", lambda: feed.counts().lost == 4, within_s=HELD_S)

    feed.offer(point(2))

    assert SinkCounts(sent=0, lost=6) == ended(feed)
    assert (1, None) == (sink.opened, sink.closed)
    (told,) = feed.news()
    assert "install it with: pip install 'sam3ft[otlp]'; 4 values were not sent" == told["message"]


def test_a_point_is_tried_three_times_and_the_next_ones_follow(tmp_path: Path):
    sink = Scripted(takes=(*[ValueError("password=hunter22\nrefused")] * TRIES, None))
    feed = fed(sink, tmp_path)
    feed.offer(point(0, values=3))
    wait_for("the first is given up", lambda: feed.counts().lost == 3, within_s=HELD_S)
    feed.offer(point(1))

    assert SinkCounts(sent=2, lost=3) == ended(feed)
    assert [1] == sink.taken
    assert [1, 2] == [told["failures"] for told in feed.news()]


def test_a_failure_that_passes_loses_nothing(tmp_path: Path):
    sink = Scripted(takes=(ConnectionError("reset"), None))
    feed = fed(sink, tmp_path)
    feed.offer(point(0))
    wait_for("the value is taken", lambda: sink.taken == [0], within_s=HELD_S)

    assert SinkCounts(sent=2, lost=0) == ended(feed)


def test_messages_are_one_line_without_secrets(tmp_path: Path):
    feed = fed(Scripted(takes=(ValueError("key hunter22 is\nwrong"), None)), tmp_path)
    feed.offer(point(0))
    ended(feed)

    (told,) = feed.news()
    assert "ValueError: key *** is wrong" == told["message"]


def test_the_end_waits_for_a_sink_no_longer_than_it_is_told_to(tmp_path: Path):
    sink = Scripted()
    sink.gate.clear()
    feed = fed(sink, tmp_path)
    for step in range(3):
        feed.offer(point(step))
    sink.entered.get(timeout=HELD_S)

    assert SinkCounts(sent=0, lost=6) == ended(feed, within_s=0.0)
    (told,) = feed.news()
    assert "it did not end in the time that a run waits for it; 6 values were not sent" == told["message"]

    sink.gate.set()  # what a thread does that nobody waits for any more is not counted a second time
    assert sink.thread is not None
    sink.thread.join(HELD_S)
    assert SinkCounts(sent=0, lost=6) == feed.counts()


def test_the_end_interrupts_a_pause(tmp_path: Path):
    sink = Scripted(opens=(OSError("no route"),) * 9)
    feed = fed(sink, tmp_path, pause=3600.0)
    feed.offer(point(0))
    wait_for("the first try has failed", lambda: feed.news() != [], within_s=HELD_S)
    began_s = time.monotonic()

    assert SinkCounts(sent=0, lost=2) == ended(feed)
    assert time.monotonic() - began_s < HELD_S
    assert ["2 values were not sent"] == [told["message"] for told in feed.news()]


def test_at_the_end_each_point_has_one_try(tmp_path: Path):
    sink = Scripted(takes=(OSError("gone"),) * 9)
    sink.opening.clear()
    feed = fed(sink, tmp_path, pause=3600.0)
    for step in range(3):
        feed.offer(point(step))
    feed.finish(is_complete=False)
    sink.opening.set()
    feed.leave(HELD_S)

    assert (SinkCounts(sent=0, lost=6), False) == (feed.counts(), sink.closed)
    assert [0, 1, 2] == [sink.entered.get_nowait() for _ in range(3)]


def test_a_library_that_wants_to_end_the_process_ends_its_thread_alone(tmp_path: Path):
    sink = Scripted(opens=(SystemExit(1),))
    feed = fed(sink, tmp_path)
    feed.offer(point(0))
    wait_for("it has given up", lambda: feed.counts().lost == 2, within_s=HELD_S)

    feed.offer(point(1))

    assert SinkCounts(sent=0, lost=4) == ended(feed)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1.0), (2, 2.0), (5, 16.0), (10, MAX_PAUSE_S), (5000, MAX_PAUSE_S)]
)
def test_pauses_double_up_to_five_minutes(failures: int, seconds: float):
    assert seconds == pause_s(failures)
