"""Stopping within a deadline: the decision, and what a run says that could not save."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sam3ft_api.errors import Interrupted, Regroup, Unsaved
from sam3ft_api.worker import Flag, FlagKind
from sam3ft_trainer.run.selection import Selection
from sam3ft_trainer.run.state import LoopState
from sam3ft_trainer.run.stopping import cannot_save, fits, stop, tell_short_grace
from sam3ft_trainer.store.speed import SaveSpeed


@dataclass
class FakeStore:
    save_s: float | None = 10.0
    newest_step: int | None = 40
    finishes_at: int | None = None
    waited_s: float | None = None
    forgone: bool = False

    def estimated_save_s(self) -> float | None:
        return self.save_s

    def finish_running(self, *, timeout_s: float | None) -> None:
        self.waited_s = timeout_s
        self.newest_step = self.finishes_at or self.newest_step

    def forgo_copy(self) -> None:
        self.forgone = True


@dataclass
class FakeReporter:
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def event(self, name: str, **fields: Any) -> None:
        self.events.append((name, fields))


@dataclass
class FakeFlags:
    stands: Flag | None = None

    def poll(self) -> Flag | None:
        return self.stands


@dataclass
class FakeRun:
    flag: Flag | None
    flags: FakeFlags = field(default_factory=FakeFlags)
    store: FakeStore = field(default_factory=FakeStore)
    reporter: FakeReporter = field(default_factory=FakeReporter)
    committed: list[int] = field(default_factory=list)
    saved: bool = False
    state: LoopState = field(
        default_factory=lambda: LoopState(
            step=52, total_steps=100, selection=Selection(metric="bbox_AP"), micro_batch=1, threads=1, world_size=1
        )
    )

    def commit(self, *, wait: bool) -> None:
        assert wait
        self.committed.append(self.state.step)

    def is_saved(self) -> bool:
        return self.saved

    def drain_store_events(self) -> None:
        """Nothing went wrong in the background."""


def evict(left_s: float | None) -> Flag:
    return Flag(kind=FlagKind.EVICT, deadline_unix_s=None if left_s is None else time.time() + left_s)


@pytest.mark.parametrize(
    ("save_s", "left_s", "expected"),
    [
        (10.0, 13.6, True),
        (10.0, 13.4, False),
        (0.1, 1.0, False),
        (None, 0.0, True),
        (1e6, None, True),
        (0.0, 1.0, True),
    ],
)
def test_a_save_fits_when_it_may_last_a_quarter_longer_and_a_second_is_left(
    save_s: float | None, left_s: float | None, *, expected: bool
) -> None:
    assert expected == fits(save_s, left_s)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (lambda: None, False),
        (lambda: evict(None), False),
        (lambda: evict(60), False),
        (lambda: evict(5), True),
        (lambda: Flag(kind=FlagKind.REGROUP), False),
    ],
)
def test_only_a_deadline_that_is_too_near_keeps_a_rank_from_saving(
    flag: Callable[[], Flag | None], *, expected: bool
) -> None:
    assert expected == cannot_save(FakeRun(flag()))


def test_with_time_enough_the_step_is_committed_and_the_run_interrupted() -> None:
    run = FakeRun(evict(60))

    with pytest.raises(Interrupted, match="step 52 is committed"):
        stop(run, saves=True)
    assert [52] == run.committed
    assert run.store.forgone


def test_a_step_whose_save_is_under_way_is_not_saved_twice() -> None:
    run = FakeRun(evict(60), store=FakeStore(finishes_at=52), saved=True)

    with pytest.raises(Interrupted, match="step 52 is committed"):
        stop(run, saves=True)
    assert [] == run.committed
    assert run.store.waited_s is None


def test_a_step_whose_save_was_skipped_is_saved() -> None:
    run = FakeRun(Flag(kind=FlagKind.REGROUP), saved=True)

    with pytest.raises(Regroup, match="step 52 is committed"):
        stop(run, saves=True)
    assert [52] == run.committed


def test_a_state_that_has_changed_since_it_was_saved_is_saved_again() -> None:
    run = FakeRun(evict(60), store=FakeStore(finishes_at=52), saved=False)

    with pytest.raises(Interrupted):
        stop(run, saves=True)
    assert [52] == run.committed


def test_without_time_no_save_is_begun_and_the_message_counts_the_lost_steps() -> None:
    run = FakeRun(evict(5))

    with pytest.raises(Unsaved, match=r"ended in about 10 s and 5 s were left.*; 12 steps since step 40") as end:
        stop(run, saves=False)
    assert 143 == end.value.code
    assert [] == run.committed
    assert 3.5 < run.store.waited_s < 4.1
    (name, fields) = run.reporter.events[0]
    assert ("stopped_unsaved", 12, 40) == (name, fields["steps_lost"], fields["checkpoint_step"])


def test_the_save_under_way_is_finished_and_shortens_what_is_lost() -> None:
    run = FakeRun(evict(5), store=FakeStore(finishes_at=50))

    with pytest.raises(Unsaved, match="; 2 steps since step 50"):
        stop(run, saves=False)


def test_a_save_under_way_of_this_very_step_loses_nothing() -> None:
    run = FakeRun(evict(5), store=FakeStore(finishes_at=52))

    with pytest.raises(Interrupted, match="step 52 is committed"):
        stop(run, saves=False)
    assert [] == run.committed


def test_a_rank_that_looked_a_moment_before_the_request_came_ends_as_its_neighbours_do() -> None:
    run = FakeRun(None, flags=FakeFlags(evict(60)))

    with pytest.raises(Interrupted, match="step 52 is committed"):
        stop(run, saves=True)


def test_a_rank_that_was_not_asked_itself_forms_the_group_again() -> None:
    run = FakeRun(None)

    with pytest.raises(Regroup, match=r"no time to save.*; 12 steps since step 40"):
        stop(run, saves=False)
    assert 60.0 == run.store.waited_s


@pytest.mark.parametrize(
    ("grace_s", "save_s", "warned"), [(100.0, 51.0, 1), (100.0, 50.0, 0), (None, 9.0, 0), (1.0, None, 0)]
)
def test_a_grace_of_less_than_two_saves_is_warned_of(grace_s: float | None, save_s: float | None, warned: int) -> None:
    reporter = FakeReporter()
    tell_short_grace(reporter, grace_s=grace_s, save_s=save_s)

    assert warned == len(reporter.events)
    assert all("give it at least 102 s" in fields["message"] for _, fields in reporter.events)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_save_is_expected_to_take_its_copy_its_upload_and_its_settling() -> None:
    clock = Clock()
    speed = SaveSpeed(clock=clock)
    assert speed.expected_s(100) is None
    speed.earlier_save_s = 7.0
    assert 7.0 == speed.expected_s(100)

    speed.begin(stage_s=0.5)
    speed.uploaded(1000, 10.0)
    clock.now_s = 12.0
    assert 10.0 + 0.5 - 12.0 < 0 < speed.rest_of_running_s(1000)
    assert 3.0 == speed.rest_of_running_s(1000)  # a quarter of what it has lasted
    speed.ended(settle_s=2.0, is_committed=True)

    assert 0.0 == speed.rest_of_running_s(1000)
    assert 12.5 == speed.last_save_s
    assert 0.5 + 10.0 + 2.0 == speed.expected_s(1000)
    speed.uploaded(1000, 5.0)
    assert 0.5 + 1000 / 150 + 2.0 == speed.expected_s(1000)
