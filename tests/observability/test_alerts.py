"""The alerts: promtool takes them, each fires and stops, each has its chapter, and nothing they ask for is made up."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerts import ALERTS, RUNBOOK, rule_file
from promtool import promtool
from series_names import documented_metrics, metric_of

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The rule file, with the tests beside it."""
    (tmp_path / "alerts.yaml").write_text(rule_file())
    shutil.copy(HERE / "alerts_test.yaml", tmp_path)
    return tmp_path


def test_prometheus_takes_every_rule(rules: Path):
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(rules / "alerts.yaml"))


def test_alerts_fire_and_stop(rules: Path):
    assert "SUCCESS" in promtool("test", "rules", str(rules / "alerts_test.yaml"))


def test_each_is_seen_silent_firing_and_silent_again():
    seen: dict[str, list[bool]] = {}
    for case in yaml.safe_load((HERE / "alerts_test.yaml").read_text())["tests"]:
        for look in case.get("alert_rule_test", ()):
            seen.setdefault(look["alertname"], []).append(bool(look["exp_alerts"]))

    assert {f"Sam3ft{alert.name}": [False, True, False] for alert in ALERTS} == seen


def test_each_has_a_chapter_of_the_runbook_and_there_is_no_other():
    chapters = re.findall(r"^## (\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)

    assert [alert.name for alert in ALERTS] == chapters
    rules: list[dict[str, Any]] = [rule for group in yaml.safe_load(rule_file())["groups"] for rule in group["rules"]]
    for rule, name in zip(rules, (alert.name for alert in ALERTS), strict=True):
        assert f"{RUNBOOK}#{name.lower()}" == rule["annotations"]["runbook_url"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


def test_they_ask_for_metrics_that_exist():
    asked = {metric_of(name) for alert in ALERTS for name in re.findall(r"sam3ft_\w+", alert.expression)}

    assert asked
    assert set() == asked - documented_metrics()
