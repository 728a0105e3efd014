"""Signs of life of SLURM sites' agents, from a Lease that changes or does not."""

from typing import Any

from engine_bench import FakeApi

from sam3ft_api import names
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_operator.agents import FORGET_S, LOOK_S, SHOWN_S, Agents

NAME = names.agent_name("alps")


class Bench:
    """A Lease that a test renews, and a clock that it turns."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.api = FakeApi()
        fake: Any = self.api
        self.agents = Agents(fake, clock=lambda: self.now_s)

    def renew(self, version: int) -> None:
        self.api.objects["Lease", NAME] = {"metadata": {"name": NAME, "resourceVersion": str(version)}}

    def silence_s(self) -> float | None:
        seen = self.agents.of("vision", "alps")
        return seen.silent_s if seen is not None else None


def test_an_agent_without_a_lease_is_none():
    assert Bench().silence_s() is None


def test_an_agent_is_as_silent_as_its_lease_has_not_changed():
    bench = Bench()
    bench.renew(1)
    assert 0.0 == bench.silence_s()
    bench.now_s = 40.0
    assert 40.0 == bench.silence_s()
    bench.renew(2)
    bench.now_s = 60.0
    assert 0.0 == bench.silence_s()


def test_silences_are_shown_of_sites_that_somebody_asks_for_and_that_have_an_agent():
    bench = Bench()
    assert bench.silence_s() is None
    assert {} == bench.agents.silences()
    bench.now_s = LOOK_S
    bench.renew(1)
    bench.silence_s()
    bench.now_s += 40.0
    bench.silence_s()
    assert {("vision", "alps"): 40.0} == bench.agents.silences()
    bench.now_s += SHOWN_S + 1  # nobody looks, so nobody knows whether it lives
    assert {} == bench.agents.silences()


def test_a_lease_is_read_now_and_then_however_often_it_is_asked_for():
    bench = Bench()
    bench.renew(1)
    for _ in range(50):
        bench.silence_s()
    assert 1 == len(bench.api.calls)
    bench.now_s = LOOK_S
    bench.silence_s()
    assert 2 == len(bench.api.calls)


def test_a_lease_that_cannot_be_read_changes_nothing():
    bench = Bench()
    bench.renew(1)
    bench.silence_s()

    def refuse(*_: str) -> None:
        raise ApiProblem(0, "NoAnswer", "away")

    bench.api.refuse = refuse
    bench.now_s = 30.0
    assert 30.0 == bench.silence_s()


def test_an_agent_that_comes_later_is_seen_and_sites_nobody_asks_for_are_forgotten():
    bench = Bench()
    assert bench.silence_s() is None
    bench.renew(5)
    bench.now_s = LOOK_S
    assert 0.0 == bench.silence_s()
    bench.now_s += FORGET_S + 1
    bench.agents.of("vision", "jura")
    assert [("vision", "jura")] == list(bench.agents._seen)
