"""The Lease: one holder at a time, by this machine's monotonic clock alone."""

from typing import Any

import pytest
from engine_bench import FakeApi

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_operator.lease import DURATION_S, GIVE_UP_S, RENEW_S, Elector, LeaseSettings


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        """Begin anywhere."""
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def elector(api: FakeApi, clock: Clock, identity: str = "me") -> Elector:
    """Return an elector that is stepped by hand."""
    settings = LeaseSettings("sam3ft-system", "lease", identity)
    fake: Any = api
    return Elector(fake, settings, gained=lambda: None, lost=lambda: None, clock=clock)


def held_by(api: FakeApi) -> str:
    """Return who holds the Lease."""
    return str(api.objects["Lease", "lease"]["spec"]["holderIdentity"])


def test_a_lease_that_does_not_exist_is_made() -> None:
    api = FakeApi()
    one = elector(api, Clock())
    wait_s = one.step()

    assert (True, "me", RENEW_S) == (one.is_leading, held_by(api), wait_s)


def test_a_lease_that_is_held_is_waited_for_until_it_has_run_out() -> None:
    api, clock = FakeApi(), Clock()
    elector(api, clock, "other").step()
    one = elector(api, clock)
    waited_s = 0.0
    while not one.is_leading:
        wait_s = one.step()
        if not one.is_leading:
            clock.now_s += wait_s
            waited_s += wait_s

    assert DURATION_S <= waited_s < DURATION_S + 1.0
    assert 1 == api.objects["Lease", "lease"]["spec"]["leaseTransitions"]


def test_a_lease_that_is_renewed_is_never_taken() -> None:
    api, clock = FakeApi(), Clock()
    holder, one = elector(api, clock, "other"), elector(api, clock)
    for _ in range(20):
        holder.step()
        one.step()
        clock.now_s += RENEW_S

    assert (True, False, True) == (holder.is_leading, one.is_leading, one.is_known)


def test_the_clock_of_the_holder_does_not_matter() -> None:
    api, clock = FakeApi(), Clock()
    elector(api, clock, "other").step()
    api.objects["Lease", "lease"]["spec"]["renewTime"] = "1970-01-01T00:00:00.000000Z"
    one = elector(api, clock)
    one.step()

    assert not one.is_leading


def test_a_holder_that_wrote_a_year_is_waited_for_a_minute() -> None:
    api, clock = FakeApi(), Clock()
    elector(api, clock, "other").step()
    api.objects["Lease", "lease"]["spec"]["leaseDurationSeconds"] = 31_536_000
    one = elector(api, clock)
    one.step()
    clock.now_s += 61.0
    one.step()

    assert one.is_leading


def test_of_two_that_take_it_at_once_one_gets_it() -> None:
    api, clock = FakeApi(), Clock()
    elector(api, clock, "gone").step()
    first, second = elector(api, clock, "first"), elector(api, clock, "second")
    first.step()
    second.step()
    clock.now_s += DURATION_S + 1

    def quicker(verb: str, _kind: str, _name: str) -> None:
        if verb == "update":
            api.refuse = lambda *_: None
            second.step()

    api.refuse = quicker
    first.step()

    assert (False, True, "second") == (first.is_leading, second.is_leading, held_by(api))


def test_a_holder_gives_up_before_another_may_begin() -> None:
    api, clock = FakeApi(), Clock()
    one = elector(api, clock)
    one.step()

    def away(*_: str) -> None:
        raise ApiProblem(0, "NoAnswer", "")

    api.refuse = away
    began_s = clock.now_s
    while one.is_leading:
        clock.now_s += one.step()

    assert GIVE_UP_S < clock.now_s - began_s < DURATION_S


def test_a_holder_that_waits_for_an_answer_is_known_to_be_overdue() -> None:
    api, clock = FakeApi(), Clock()
    one = elector(api, clock)
    assert not one.is_overdue
    one.step()
    overdue: list[bool] = []

    def slow(*_: str) -> None:
        for _second in range(12):
            clock.now_s += 1.0
            overdue.append(one.is_overdue)
        raise ApiProblem(0, "NoAnswer", "")

    api.refuse = slow
    one.step()

    assert [False] * int(GIVE_UP_S) == overdue[: int(GIVE_UP_S)]
    assert overdue[-1]


def test_a_lease_that_is_overdue_is_not_given_back() -> None:
    api, clock = FakeApi(), Clock()
    one = elector(api, clock)
    one.step()
    clock.now_s += GIVE_UP_S + 1
    num_calls = len(api.calls)
    one.stop()

    assert num_calls == len(api.calls)


def test_a_holder_whose_lease_was_taken_knows_it() -> None:
    api, clock = FakeApi(), Clock()
    one = elector(api, clock)
    one.step()
    api.objects["Lease", "lease"]["spec"]["holderIdentity"] = "other"
    one.step()

    assert not one.is_leading


def test_a_renewal_counts_from_before_its_write() -> None:
    api, clock = FakeApi(), Clock()
    one = elector(api, clock)
    one.step()

    def slow(verb: str, *_: str) -> None:
        clock.now_s += 4.0 if verb == "update" else 7.0

    api.refuse = slow
    began_s = clock.now_s
    one.step()

    assert began_s + 7.0 == one._renewed_s


def test_the_end_gives_it_back_for_others_to_take_at_once() -> None:
    api, clock = FakeApi(), Clock()
    one, other = elector(api, clock), elector(api, clock, "other")
    one.step()
    one.stop()
    other.step()

    assert ("other", True) == (held_by(api), other.is_leading)


def test_the_end_does_not_touch_a_lease_of_another() -> None:
    api, clock = FakeApi(), Clock()
    one, other = elector(api, clock), elector(api, clock, "other")
    other.step()
    one.step()
    one.stop()

    assert "other" == held_by(api)


@pytest.mark.parametrize("code", [0, 403, 500])
def test_an_end_without_an_answer_is_an_end_all_the_same(code: int) -> None:
    api = FakeApi()
    one = elector(api, Clock())
    one.step()

    def away(*_: str) -> None:
        raise ApiProblem(code, "", "")

    api.refuse = away
    one.stop()

    assert not one.is_leading
