"""Events: told once, bounded, clean."""

from typing import Any

import pytest
from engine_bench import UID, FakeApi

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_operator.decision import Note
from sam3ft_operator.notes import Notes, event_body, event_name
from sam3ft_operator.observed import Resource

RESOURCE = Resource("lab", "blood", UID, 1, 0.0, None)
NOTE = Note("Normal", "Started", "attempt 1 begins")


class Bench:
    """An API server that records, a clock, and what tells."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self.api, self.now_s = FakeApi(), 1_000_000.0
        fake: Any = self.api
        self.notes = Notes(fake, clock=lambda: self.now_s)

    def verbs(self) -> list[str]:
        """Return what was asked of the server."""
        return [verb for verb, _, _ in self.api.calls]


def test_the_same_sentence_is_told_once() -> None:
    bench = Bench()
    for _ in range(3):
        bench.notes.tell(RESOURCE, NOTE)

    assert ["create"] == bench.verbs()


def test_much_later_the_same_sentence_counts_twice() -> None:
    bench = Bench()
    bench.notes.tell(RESOURCE, NOTE)
    bench.now_s += 3600
    bench.notes.tell(RESOURCE, NOTE)

    assert ["create", "create", "patch"] == bench.verbs()
    assert 2 == bench.api.bodies[-1]["count"]


def test_a_process_that_is_new_counts_on() -> None:
    bench, after = Bench(), Bench()
    bench.notes.tell(RESOURCE, NOTE)
    after.api.objects = bench.api.objects
    after.notes.tell(RESOURCE, NOTE)

    assert ["create", "patch"] == after.verbs()
    assert 1 == len(bench.api.objects)


def test_a_run_that_has_much_to_tell_is_bounded_and_another_is_not() -> None:
    bench = Bench()
    for number in range(100):
        bench.notes.tell(RESOURCE, Note("Normal", "Again", f"sentence {number}"))
    told = len(bench.api.calls)
    bench.notes.tell(Resource("lab", "other", "u2", 1, 0.0, None), NOTE)

    assert 25 == told
    assert 75 == bench.notes.dropped
    assert 26 == len(bench.api.calls)


@pytest.mark.parametrize("code", [0, 403, 404, 500])
def test_an_event_that_cannot_be_written_is_no_error(code: int) -> None:
    bench = Bench()

    def refuse(*_: str) -> None:
        raise ApiProblem(code, "", "")

    bench.api.refuse = refuse
    bench.notes.tell(RESOURCE, NOTE)

    assert 1 == bench.notes.dropped


def test_an_event_is_cut_and_has_no_control_characters() -> None:
    body = event_body(RESOURCE, Note("Warning", "Bad\nReason", "a\x1b[31m" + "x" * 5000), name="n", now="t")

    assert "BadReason" == body["reason"]
    assert body["message"].startswith("a [31mx")
    assert 1000 == len(body["message"])
    assert ("blood", UID) == (body["involvedObject"]["name"], body["involvedObject"]["uid"])


def test_two_sentences_and_two_resources_have_names_of_their_own() -> None:
    other = Resource("lab", "blood", "another-uid", 1, 0.0, None)
    found = {event_name(RESOURCE, NOTE), event_name(other, NOTE), event_name(RESOURCE, Note("Normal", "Started", "x"))}

    assert 3 == len(found)


def test_what_is_remembered_is_bounded() -> None:
    bench = Bench()
    for number in range(5000):
        bench.notes.tell(Resource("lab", "r", f"uid-{number}", 1, 0.0, None), NOTE)

    assert 4096 == len(bench.notes._runs)
