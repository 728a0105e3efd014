"""The workflows: linted, with no more rights than they need, and nothing in them that a tag could exchange."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from tools_here import need_binary

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = YAML(typ="safe").load(path.read_text())
    return document


def test_there_is_one_for_releases() -> None:
    assert ["release.yml"] == [path.name for path in WORKFLOWS]


def test_actionlint_finds_nothing() -> None:
    words = [str(need_binary("actionlint")), "-no-color", *map(str, WORKFLOWS)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (0, "") == (ended.returncode, ended.stdout + ended.stderr)


def test_zizmor_finds_nothing() -> None:
    program = Path(sys.executable).with_name("zizmor")
    words = [str(program), "--offline", "--no-progress", "--persona", "pedantic", *map(str, WORKFLOWS)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)

    assert 0 == ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_pinned_and_has_few_rights(path: Path) -> None:
    workflow = read(path)
    assert {} == workflow["permissions"], "each job names its own"
    for job in workflow["jobs"].values():
        assert job["permissions"]
        assert job["timeout-minutes"]
        for step in job["steps"]:
            assert "uses" not in step, "a tag of somebody's action can become another program"
            assert "${{" not in step["run"], "what others write reaches a shell as a variable, not as its program"
    modules = re.findall(r"go install (\S+)|: (github\.com/\S+)", path.read_text())
    assert all(re.search(r"(@v\d+\.\d+\.\d+|\"\$[A-Z]+\")$", found) for pair in modules for found in pair if found)


def test_what_is_released_is_what_the_chart_asks_for() -> None:
    """The workflow pushes PREFIX/operator and PREFIX/trainer, where the chart's values look for them."""
    values = YAML(typ="safe").load((ROOT / "charts" / "sam3ft" / "values.yaml").read_text())

    asked = [values[key]["repository"] for key in ("image", "trainerImage")]
    assert ["ghcr.io/sam3ft/operator", "ghcr.io/sam3ft/trainer"] == asked
    text = WORKFLOWS[0].read_text()
    assert all(word in text for word in ('"$PREFIX/$name:$VERSION"', "for name in operator trainer", "ghcr.io"))
