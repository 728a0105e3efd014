"""Where the time goes before the first step, from the pods' own times and what the coordinator says."""

from typing import Any

from beginning import parts_of_beginning
from recovery import Moment

ZERO_S = 1767225600.0


def pod(**state: dict[str, str]) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"state": state}]}}


def moment(at_s: float, *members: str, step: int = 0, stepped_s: float = 0.0) -> Moment:
    return Moment(ZERO_S + at_s, 1, members, step, ZERO_S + stepped_s if step else 0.0, 0)


def parts(*moments: Moment) -> list[float]:
    check = pod(terminated={"startedAt": "2026-01-01T00:00:02Z", "finishedAt": "2026-01-01T00:00:10Z"})
    workers = [pod(running={"startedAt": f"2026-01-01T00:00:{second}Z"}) for second in (12, 13)]
    return list(parts_of_beginning(check, workers, applied_s=ZERO_S + 0.5, moments=moments).values())


def test_the_parts_add_up_to_the_whole() -> None:
    first = moment(20.5, "a", "b", step=1, stepped_s=20.25)

    found = parts(moment(13.5), moment(14.0, "a"), moment(14.5, "a", "b"), first)

    assert [1.5, 8.0, 3.0, 1.5, 5.75] == found


def test_a_group_that_was_formed_before_a_pod_said_that_it_runs_took_no_time() -> None:
    found = parts(moment(12.5, "a", "b"), moment(20.5, "a", "b", step=1, stepped_s=20.25))

    assert [1.5, 8.0, 3.0, 0.0, 7.25] == found
