"""docs/operator.md says what the policies do: its phases, codes and numbers are theirs."""

import re
from pathlib import Path

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.status import Phase
from sam3ft_operator.decide import attempts, ledger, stall

PAGE = (Path(__file__).parents[3] / "docs/operator.md").read_text()


def test_every_phase_has_its_row_and_there_are_no_others() -> None:
    table = PAGE.split("## Phases")[1].split("## ")[0]

    assert [str(phase) for phase in Phase] == re.findall(r"^\| ([A-Z][a-z]+) \|", table, re.MULTILINE)


def test_every_code_has_its_consequence() -> None:
    table = PAGE.split("## What follows from the end of a pod")[1].split("More than")[0]

    named = {int(number) for number in re.findall(r"\b\d+\b", table)} | set(range(10, 17))
    assert {int(code) for code in ExitCode} - {ExitCode.SUCCEEDED, ExitCode.REGROUP} <= named


def test_its_numbers_are_those_of_the_code() -> None:
    words = {4: "fourth", 2: "two"}
    text = " ".join(PAGE.split())
    assert f"After the {words[attempts.MOST_ENDS]} end within one Job" in text
    assert f"a pause of {', '.join(f'{pause:g}' for pause in attempts.PAUSES_S)} s" in text
    assert f"failed in {words[ledger.EXCLUDE_AFTER]} attempts" in text
    assert f"{ledger.MOST_EXCLUDED} nodes at most" in text
    assert (1800, 50) == (stall.FLOOR_S, stall.STEPS)
    assert "half an hour and for 50 steps" in text
