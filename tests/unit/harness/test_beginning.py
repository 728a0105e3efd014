"""Where the time goes before the first step, from the pods' own times."""

from typing import Any

from beginning import parts_of_beginning


def pod(**state: dict[str, str]) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"state": state}]}}


def test_the_parts_add_up_to_the_whole() -> None:
    check = pod(terminated={"startedAt": "2026-01-01T00:00:02Z", "finishedAt": "2026-01-01T00:00:10Z"})
    workers = [pod(running={"startedAt": f"2026-01-01T00:00:{second}Z"}) for second in (12, 13)]
    zero_s = 1767225600.0

    found = parts_of_beginning(check, workers, applied_s=zero_s + 0.5, stepped_s=zero_s + 20.25)

    assert [1.5, 8.0, 3.0, 7.25] == list(found.values())
