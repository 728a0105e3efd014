"""The lines of a run's log: what the trainer writes is what is documented, and nothing else."""

import ast
import json
import re
from pathlib import Path

import jsonschema
import pytest

from sam3ft_api.log_lines import EVENTS, TrainInterval, schema
from sam3ft_trainer.run.events import RunReporter

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/logs.md").read_text()
OUTCOMES = ("committed", "skipped", "aborted", "failed")
INTERVAL = {
    "step": 10,
    "epoch": 0.5,
    "loss": float("nan"),
    "grad_norm": 1.0,
    "lr": 1e-4,
    "images_per_s": 8.0,
    "eta_s": 12.0,
    "terms": {"loss_ce": 0.5},
    "dropped_small": 0,
    "dropped_crowded": 0,
    "spans": {"data": 0.1},
}


def told() -> set[str]:
    """Return the first argument of every call of `event` or `tell` in the trainer."""
    found: set[str] = set()
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", "")).lstrip("_")
            first = node.args[0]
            if name in ("event", "tell") and isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.add(first.value)
    return found


def test_every_event_is_documented_and_there_is_no_other() -> None:
    by_kind = {f"checkpoint_{outcome}" for outcome in OUTCOMES} | {"checkpoints_retired", "orphans_swept"}

    assert set(EVENTS) == told() | by_kind
    assert list(EVENTS.items()) == re.findall(
        r"^\| `([a-z_]+)` \| (.+) \|$", PAGE.split("A `train_interval` has")[0], re.MULTILINE
    )


def test_every_field_of_an_interval_is_documented() -> None:
    rows = PAGE.split("A `train_interval` has")[1].split("and `reading`")[0]
    own = set(TrainInterval.model_fields) - {"ts", "event", "run", "attempt"}

    assert own == {
        name for row in re.findall(r"^\| (`.+?) \|", rows, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }


def test_what_a_reporter_writes_has_that_schema(tmp_path: Path) -> None:
    reporter = RunReporter(tmp_path, run="blood", attempt=2, tensorboard=False, echo=False)
    reporter.event("train_interval", **INTERVAL)
    reporter.event("stopped", step=10, kind="evict")
    reporter.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()

    for line in lines:
        jsonschema.validate(json.loads(line), schema())
        assert '"run": "blood", "attempt": 2' in line
    assert json.loads(lines[0])["loss"] is None


@pytest.mark.parametrize(
    "changes",
    [{"event": "made_up"}, {"attempt": 0}, {"run": ""}, {"step": None}, {"spans": {"data": "x"}}, {"ts": None}],
)
def test_other_lines_do_not(changes: dict[str, object]) -> None:
    line = {"ts": 1.0, "event": "train_interval", "run": "blood", "attempt": 1, **INTERVAL, "loss": None}
    jsonschema.validate(line, schema())

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(line | changes, schema())
