"""The queue of runs, driven with a clock."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ft_operator.queue import (
    BURST,
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    LAST_OUTAGE_BACKOFF_S,
    Schedule,
    WorkQueue,
)


def taken(schedule: Schedule, now_s: float) -> list[str]:
    """Take everything that is due."""
    found = []
    while (key := schedule.take(now_s=now_s)) is not None:
        found.append(key)
    return found


def test_a_key_that_is_added_often_is_taken_once() -> None:
    schedule = Schedule()
    for _ in range(5):
        schedule.add("a", now_s=0.0)

    assert ["a"] == taken(schedule, 0.0)


def test_a_key_that_is_added_while_it_is_taken_is_taken_again_afterwards() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0)
    assert "a" == schedule.take(now_s=0.0)
    schedule.add("a", now_s=0.0)
    assert schedule.take(now_s=0.0) is None
    schedule.done("a", now_s=1.0)

    assert "a" == schedule.take(now_s=1.0)


def test_a_key_waits_for_its_time_and_the_earliest_time_counts() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0, after_s=30.0)
    schedule.add("a", now_s=0.0, after_s=10.0)
    schedule.add("a", now_s=0.0, after_s=20.0)

    assert 10.0 == schedule.next_s()
    assert [] == taken(schedule, 9.9)
    assert ["a"] == taken(schedule, 10.0)


def test_a_later_request_stays_beside_an_earlier_one_of_the_look_that_ends() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0)
    schedule.take(now_s=0.0)
    schedule.done("a", now_s=0.0, again_s=5.0)

    assert [] == taken(schedule, 4.9)
    assert ["a"] == taken(schedule, 5.0)


def test_failures_of_the_api_server_wait_for_seconds_and_not_for_minutes() -> None:
    schedule, now_s = Schedule(), 0.0
    schedule.add("a", now_s=now_s)
    for _ in range(12):
        assert "a" == schedule.take(now_s=now_s)
        schedule.done("a", now_s=now_s, failed=True, longest_s=LAST_OUTAGE_BACKOFF_S)
        due_s = schedule.next_s()
        assert due_s is not None
        waited_s, now_s = due_s - now_s, due_s

    assert LAST_OUTAGE_BACKOFF_S == waited_s


def test_failures_wait_twice_as_long_each_time_up_to_a_bound() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0)
    now_s, waits = 0.0, []
    for _ in range(12):
        assert "a" == schedule.take(now_s=now_s)
        schedule.done("a", now_s=now_s, failed=True)
        due_s = schedule.next_s()
        assert due_s is not None
        waits.append(due_s - now_s)
        now_s = due_s

    assert [FIRST_BACKOFF_S, 2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S] == waits[:3]
    assert LAST_BACKOFF_S == waits[-1]


def test_a_change_does_not_shorten_the_wait_after_a_failure() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0)
    for _ in range(4):
        now_s = schedule.next_s() or 0.0
        schedule.take(now_s=now_s)
        schedule.done("a", now_s=now_s, failed=True)
    schedule.add("a", now_s=now_s)

    assert [] == taken(schedule, now_s + 3.9)
    assert ["a"] == taken(schedule, now_s + 4.0)


def test_success_forgets_the_failures() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0)
    for failed in (True, True, False, True):
        now_s = schedule.next_s() or 0.0
        schedule.take(now_s=now_s)
        schedule.done("a", now_s=now_s, failed=failed, again_s=1.0)

    assert now_s + 1.0 == schedule.next_s()


def test_a_key_that_changes_all_the_time_is_slowed_down_and_others_are_not() -> None:
    schedule = Schedule()
    noisy = quiet = 0
    for tick in range(1000):
        now_s = tick * 0.01
        schedule.add("noisy", now_s=now_s)
        if tick % 100 == 0:
            schedule.add(f"quiet-{tick}", now_s=now_s)
        for key in taken(schedule, now_s):
            noisy += key == "noisy"
            quiet += key != "noisy"
            schedule.done(key, now_s=now_s)

    assert 10 == quiet
    assert noisy <= BURST + 2.0 * 10.0 + 1


def test_keys_come_in_the_order_in_which_they_were_added() -> None:
    schedule = Schedule()
    for key in "abc":
        schedule.add(key, now_s=0.0)
    first = schedule.take(now_s=0.0)
    schedule.add("a", now_s=0.0)
    schedule.done("a", now_s=0.0)

    assert ["a", "b", "c", "a"] == [first, *taken(schedule, 0.0)]


def test_the_slow_lane_waits_behind_the_quick_one_and_is_not_starved() -> None:
    schedule = Schedule()
    for number in range(20):
        schedule.add(f"slow-{number}", now_s=0.0, is_slow=True)
    for number in range(40):
        schedule.add(f"quick-{number}", now_s=0.0)
    order = taken(schedule, 0.0)

    assert "quick-0" == order[0]
    assert 5 == sum(key.startswith("slow") for key in order[:40])
    assert 60 == len(order)


def test_forgetting_leaves_a_key_that_is_asked_for() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0, after_s=5.0)
    schedule.forget("a")

    assert ["a"] == taken(schedule, 5.0)


def test_nothing_is_remembered_of_a_forgotten_key() -> None:
    schedule = Schedule()
    schedule.add("a", now_s=0.0)
    schedule.take(now_s=0.0)
    schedule.done("a", now_s=0.0)
    schedule.forget("a")

    assert {} == schedule._keys


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "later", "take", "done", "fail"]), st.sampled_from("abc")), max_size=80
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_no_key_is_taken_twice_at_once_and_none_that_was_asked_for_is_lost(steps: list[tuple[str, str]]) -> None:
    schedule = Schedule()
    at_work: set[str] = set()
    owed: set[str] = set()
    now_s = 0.0
    for what, key in steps:
        now_s += 0.7
        if what == "take":
            got = schedule.take(now_s=now_s)
            if got is not None:
                assert got not in at_work
                at_work.add(got)
                owed.discard(got)
        elif what in ("done", "fail") and key in at_work:
            at_work.discard(key)
            schedule.done(key, now_s=now_s, failed=what == "fail")
            owed |= {key} if what == "fail" else set()
        elif what in ("add", "later"):
            schedule.add(key, now_s=now_s, after_s=3.0 if what == "later" else 0.0)
            owed.add(key)
    for key in sorted(at_work):
        schedule.done(key, now_s=now_s)

    assert owed <= set(taken(schedule, now_s + 10_000.0))


def test_many_threads_never_hold_one_key_at_the_same_time() -> None:
    queue = WorkQueue()
    holding: set[str] = set()
    trouble: list[str] = []
    seen = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal seen
        while (key := queue.take()) is not None:
            with lock:
                trouble.extend([key] if key in holding else [])
                holding.add(key)
                seen += 1
            with lock:
                holding.discard(key)
            queue.done(key)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(2000):
        queue.add(f"key-{number % 400}")
    while queue.depth():
        pass
    queue.close()
    for thread in threads:
        thread.join(10)

    assert [] == trouble
    assert seen >= 400


def test_times_that_are_out_of_date_do_not_pile_up() -> None:
    schedule = Schedule()
    most = 0
    for number in range(3000):
        key = "ab"[number % 2]
        schedule.add(key, now_s=float(number))
        assert [key] == taken(schedule, float(number))
        schedule.done(key, now_s=float(number), again_s=600.0)
        most = max(most, len(schedule._later))

    assert most < 100
    assert ["a", "b"] == sorted(taken(schedule, 3600.0))


def test_a_closed_queue_lets_everybody_go() -> None:
    queue = WorkQueue()
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(5)

    assert [None] == found


def test_the_time_of_the_slowest_worker_is_known() -> None:
    now_s = 100.0
    queue = WorkQueue(clock=lambda: now_s)
    queue.add("a")
    queue.take()
    now_s = 130.0

    assert 30.0 == queue.oldest_taken_s()
    queue.done("a")
    assert 0.0 == queue.oldest_taken_s()
