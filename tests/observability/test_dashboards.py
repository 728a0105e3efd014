"""The dashboards: importable, of Grafana's own types, and by the rules of its dashboard linter."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from dashboards import DASHBOARDS
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from promtool import promtool
from series_names import documented_metrics, metric_of, types

DOCS = Path(__file__).parents[2] / "docs"
ALL: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in (make() for make in DASHBOARDS)}
PANELS = [
    pytest.param(name, panel, id=f"{name}: {panel['title']}")
    for name, board in ALL.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
OF_A_GROUP = frozenset({"sam3ft_group_rounds_total", "sam3ft_job_lost_seconds_total"})
"""Counters whose height is of interest: how often, and how long, since the beginning of a run."""


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


@pytest.mark.parametrize("board", ALL.values(), ids=ALL)
def test_a_dashboard_is_what_grafana_s_types_read_and_write(board: dict[str, Any]) -> None:
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))

    assert board == read


@pytest.mark.parametrize("board", ALL.values(), ids=ALL)
def test_a_dashboard_has_a_fixed_address_and_lets_choose_the_data_source(board: dict[str, Any]) -> None:
    assert re.fullmatch(r"sam3ft-[a-z]+", board["uid"])
    assert (board["title"], False) == (f"sam3ft / {board['uid'].removeprefix('sam3ft-').title()}", board["editable"])
    assert board.get("id") is None
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert ("datasource", "prometheus") == (variables["datasource"]["type"], variables["datasource"]["query"])
    asked = set(re.findall(r"\$(\w+)", " ".join(text for panel in board["panels"] for text in queries_of(panel))))
    assert asked - {name for name in asked if name.startswith("__")} <= variables.keys()


def queries_of(panel: dict[str, Any]) -> list[str]:
    return expressions(panel) if panel["type"] != "row" else []


@pytest.mark.parametrize("board", ALL.values(), ids=ALL)
def test_panels_fill_the_grid_without_covering_each_other(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_a_panel_says_what_it_shows_and_in_which_unit(name: str, panel: dict[str, Any]) -> None:
    assert len(panel["title"]) >= 3
    assert panel["description"].endswith(".")
    assert len(panel["description"]) >= 15
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {"type": "prometheus", "uid": "${datasource}"} == panel["datasource"]
    assert panel["targets"]
    letters = [target["refId"] for target in panel["targets"]]
    assert sorted(set(letters)) == letters
    if len(letters) > 1 and panel["type"] == "timeseries":
        assert all(target.get("legendFormat") for target in panel["targets"])


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_counters_are_shown_as_rates_over_the_time_between_points(name: str, panel: dict[str, Any]) -> None:
    for expression in expressions(panel):
        for window in re.findall(r"\[([^\]]+)\]", expression):
            assert window in ("$__rate_interval", "$__range", "$__range:$__interval")
        for function, series in re.findall(r"\b(rate|increase)\((\w+)", expression):
            is_counter = series.endswith(("_total", "_bucket", "_sum", "_count"))
            assert is_counter, f"{function} over {series}"
        for series in re.findall(r"\b(sam3ft_\w+_total)\b", expression):
            if series not in OF_A_GROUP:
                assert re.search(rf"\b(rate|increase)\({series}", expression), series


@pytest.mark.parametrize(("name", "panel"), PANELS)
def test_a_panel_asks_for_metrics_that_exist(name: str, panel: dict[str, Any]) -> None:
    asked = {
        metric_of(series) for text in expressions(panel) for series in re.findall(r"\b(?:sam3ft|process)_\w+", text)
    }

    assert asked
    assert set() == asked - documented_metrics()


def test_the_page_names_every_dashboard_and_its_example_is_a_configuration(tmp_path: Path) -> None:
    page = (DOCS / "dashboards.md").read_text()
    assert set(ALL) == {
        Path(found).stem for found in re.findall(r"\(\.\./charts/sam3ft/files/dashboards/(\S+)\)", page)
    }
    assert {board["uid"] for board in ALL.values()} == set(re.findall(r"`/d/(\S+)`", page))
    (example,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", page, re.DOTALL)
    (tmp_path / "prometheus.yaml").write_text(example)

    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "prometheus.yaml"))


def test_every_metric_of_a_run_and_of_the_operator_has_a_panel_or_a_reason() -> None:
    shown = {metric_of(series) for board in ALL.values() for series in re.findall(r"\bsam3ft_\w+", json.dumps(board))}
    without = {
        "sam3ft_train_state",  # the phase of the status says it in the user's words
        "sam3ft_train_steps_total",  # the duration's count
        "sam3ft_train_epoch", "sam3ft_train_best_step", "sam3ft_train_checkpoint_step",  # as the progress
        "sam3ft_group_exit_code", "sam3ft_group_attempt",  # as phase and reason of the status
        "sam3ft_group_members", "sam3ft_group_processes", "sam3ft_group_nodes", "sam3ft_group_nodes_limit",  # as nodes
        "sam3ft_group_forming_seconds", "sam3ft_group_start_wait_seconds",  # in the lost seconds
        "sam3ft_group_joins_total", "sam3ft_group_departures_total", "sam3ft_group_failures_total",  # as rounds
        "sam3ft_group_connections_refused_total", "sam3ft_group_node_step", "sam3ft_group_node_restarts_total",
        "sam3ft_job_images_per_second", "sam3ft_job_last_step_timestamp_seconds",  # the trainer's own are newer
        "sam3ft_job_checkpoint_timestamp_seconds",
        "sam3ft_train_sink_values_total", "sam3ft_train_sink_lost_total",  # most runs have no sink; the log tells
        # no figures of a device have been recorded yet with which a panel could be shown to work
        "sam3ft_train_gpu_utilization_ratio", "sam3ft_train_gpu_used_memory_bytes",
        "sam3ft_train_gpu_power_watts", "sam3ft_train_gpu_temperature_celsius",
        "sam3ft_jobs",  # counted from the phases, for the chosen namespaces
    }  # fmt: skip

    assert without == {name for name in types() if name.startswith("sam3ft_")} - shown
