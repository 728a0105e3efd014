"""docs/operator.md says what the policies do: its phases, codes and numbers are theirs."""

import re
from pathlib import Path

from sam3ft_api import limits
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.status import Phase
from sam3ft_operator.decide import attempts, mend, nodes, stall, standing

PAGE = (Path(__file__).parents[3] / "docs/operator.md").read_text()


def test_every_phase_has_its_row_and_there_are_no_others() -> None:
    table = PAGE.split("## Phases")[1].split("## ")[0]

    assert [str(phase) for phase in Phase] == re.findall(r"^\| ([A-Z][a-z]+) \|", table, re.MULTILINE)


def test_every_code_has_its_consequence() -> None:
    table = PAGE.split("## What follows from the end of a pod")[1].split("More than")[0]

    named = {int(number) for number in re.findall(r"\b\d+\b", table)} | set(range(10, 17))
    assert {int(code) for code in ExitCode} - {ExitCode.SUCCEEDED, ExitCode.REGROUP} <= named


def test_its_numbers_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"After the {_WORDS[attempts.MOST_ENDS]} end within one Job" in text
    assert f"a pause of {', '.join(f'{pause:g}' for pause in attempts.PAUSES_S)} s" in text
    assert f"failed in {_WORDS[nodes.EXCLUDE_AFTER]} attempts" in text
    assert f"{nodes.MOST_EXCLUDED} nodes at most" in text
    assert f"within {_WORDS[nodes.PATIENCE_S / 60]} minutes" in text
    assert f"{_WORDS[mend.OVERDUE_S / 60]} minutes after its grace" in text
    assert f"after {_WORDS[standing.SILENT_S / 60]} minutes; nothing else" in text
    assert (1800, 50, 1.25) == (stall.WATCHDOG_S, stall.STEPS, stall.MARGIN)
    assert "at least half an hour) and for 50 steps" in text
    assert f"in at most {limits.MAX_BUCKETS} entries" in text


_WORDS = {2: "two", 4: "fourth", 5: "five", 10: "ten"}
