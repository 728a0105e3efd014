"""The page about reliability names tests that exist, and every phase and fault of the harness is explained."""

import re
from pathlib import Path

from sam3ft_faults.plans import ACTIONS, PHASES
from sam3ft_faults.rules import FAULTS

ROOT = Path(__file__).parents[3]
HARNESS = ROOT / "tests/harness/sam3ft_faults/README.md"


def test_every_test_that_the_page_names_exists():
    text = (ROOT / "docs/reliability.md").read_text()

    named = set(re.findall(r"`((?:faults|integration|unit)/[\w/.]+)`", text))

    assert len(named) > 10
    assert [] == sorted(name for name in named if not (ROOT / "tests" / name).exists())


def test_the_readme_explains_every_phase_signal_and_fault():
    text = HARNESS.read_text()

    assert [] == [word for word in (*PHASES, *ACTIONS, *FAULTS) if word != "none" and f"`{word}" not in text]
