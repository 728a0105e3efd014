"""A real Prometheus scrapes a real operator and real runs: every panel has an answer, and faults drive the alerts."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from agent_site import AgentSite
from alerts import ALERTS
from control_plane import ControlPlane
from coordinator_site import FakeCoordinator
from dashboards import DASHBOARDS
from draw import board_page
from live_site import RECORDED, Live, LocalRun, begin_cluster_run, begin_site_run, recorded_gpu, relays
from prometheus_server import PrometheusServer, Shown, has_data
from quick_rules import QUICK, quick_rules
from slurm_fixtures import running_slurm
from waiting import wait_for

from sam3ft_api.log_lines import schema

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.in_order]
FROM_RECORDINGS = {"Use of the devices' peak (MFU)", "GPU memory, by rank"}
"""Panels that only a GPU fills."""
FROM_TROUBLE = {"What is wrong now"}
"""Panels that are empty while all is well."""


@pytest.fixture(scope="module")
def observed(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two operators, a run on the cluster, one on a site, one that cannot start; and what has scraped them."""
    folder = tmp_path_factory.mktemp("observed")
    namespace = f"observed-{folder.name[-1]}"
    cluster.post("/api/v1/namespaces", {"metadata": {"name": namespace}})
    run = LocalRun(folder / "local")
    try:
        with (
            running_slurm() as slurm,
            AgentSite(cluster, namespace, folder, slurm, is_real=True) as site,
            FakeCoordinator(relays(run.port)) as coordinator,
            recorded_gpu() as recorded,
        ):
            site.operator().wait_until_ready()
            site.operator().wait_until_ready()
            live = Live(site, run, coordinator)
            targets = [*live.targets(), recorded]
            with PrometheusServer(folder / "prometheus", targets, rules=quick_rules()) as server:
                try:
                    _begin(live, server, folder)
                    yield live, server
                finally:
                    site.close()
    finally:
        run.end()


def _begin(live: Live, server: PrometheusServer, folder: Path) -> None:
    """Apply the runs, and wait until all that is looked at has been scraped."""
    site = live.site
    site.agent()
    begin_site_run(site, folder)
    begin_cluster_run(site, live.coordinator)
    stuck = site.apply("stuck", workers={"nodes": 1, "nodeSelector": {"none": "such"}})
    site.pass_check(stuck["metadata"]["uid"])
    site.wait_for_condition("stuck", "Scheduled", "False", within_s=60)
    wait_for("the runs train", lambda: _trains(site, "blood") and _trains(site, "leaves"), within_s=300)
    for series, samples in (("sam3ft_train_eval_metric", 20), ('sam3ft_train_images_per_second{job_name="leaves"}', 5)):
        query = f"count_over_time({series}[1m]) > {samples}"
        wait_for(query, lambda: server.now(query), within_s=120)  # noqa: B023 - asked before the next one


def _fires(server: PrometheusServer, name: str, *, run: str = "") -> bool:
    return any(
        labels["alertname"] == f"Sam3ft{name}" and run in ("", labels.get("job_name")) for labels in server.firing()
    )


def _trains(site: AgentSite, name: str) -> bool:
    status = site.resource(name).get("status", {})
    return status.get("phase") == "Running" and "imagesPerSecond" in status.get("progress", {})


def test_every_target_is_scraped(observed: tuple[Live, PrometheusServer]) -> None:
    targets = observed[1].targets()

    assert {"up"} == {target["health"] for target in targets.values()}, targets
    assert all(target["lastScrapeDuration"] < 0.5 for target in targets.values())


def _others(live: Live) -> dict[str, Shown]:
    """Return the run by which a panel is judged, where it is another one."""
    return {
        **dict.fromkeys(FROM_RECORDINGS, Shown({"namespace": "recorded", "run": RECORDED})),
        **dict.fromkeys(FROM_TROUBLE, Shown({"namespace": live.site.namespace, "run": "stuck"})),
    }


@pytest.mark.parametrize("make", DASHBOARDS, ids=[make.__name__ for make in DASHBOARDS])
def test_every_query_of_every_panel_returns_data(observed: tuple[Live, PrometheusServer], make: Any) -> None:
    live, server = observed
    board = json.loads(make()[1])
    main = Shown({"namespace": live.site.namespace, "run": "blood"})
    others = _others(live)
    empty = []
    for panel in (panel for panel in board["panels"] if panel["type"] != "row"):
        shown = others.get(panel["title"], main)
        empty.extend(
            (panel["title"], shown.expression(target["expr"]))
            for target in panel["targets"]
            if not has_data(shown.ask(server, target))
        )
    for mark in board["annotations"].get("list", ()):
        shown_ever = Shown(main.variables, seconds=300.0, step_s=1.0)
        shown_ever.ask(server, {"expr": mark["expr"]})  # a mark may be absent; what Prometheus refuses is an error

    assert [] == empty


def test_a_run_on_a_site_fills_the_panels_that_a_status_can_fill(observed: tuple[Live, PrometheusServer]) -> None:
    live, server = observed
    _, text = next(make() for make in DASHBOARDS if make.__name__ == "run")
    shown = Shown({"namespace": live.site.namespace, "run": "leaves"})
    filled = {
        panel["title"]
        for panel in json.loads(text)["panels"]
        if panel["type"] != "row" and any(has_data(shown.ask(server, target)) for target in panel["targets"])
    }

    assert {"Phase", "Progress", "Time to the end", "Since the last step", "Loss", "Images a second", "Nodes"} <= filled


@pytest.mark.parametrize("make", DASHBOARDS, ids=[make.__name__ for make in DASHBOARDS])
def test_a_dashboard_can_be_drawn_and_has_no_empty_panel(
    observed: tuple[Live, PrometheusServer], make: Any, request: pytest.FixtureRequest
) -> None:
    live, server = observed
    name, text = make()
    main = Shown({"namespace": live.site.namespace, "run": "blood"}, seconds=100.0, step_s=1.0)
    others = _others(live)
    board = json.loads(text)

    page = board_page(board, lambda panel, target: others.get(panel["title"], main).ask(server, target))

    assert page.count('<div class="panel"') == sum(panel["type"] != "row" for panel in board["panels"])
    assert "No data" not in page
    if folder := request.config.getoption("--draw-dashboards"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"dashboard-{name}.html").write_text(page)


def test_every_operand_of_every_alert_exists(observed: tuple[Live, PrometheusServer]) -> None:
    names = {str(series["metric"]["__name__"]) for series in observed[1].now('{__name__=~"sam3ft_.+"}')}
    asked = {word for alert in ALERTS for word in _operands(alert.expression)}

    assert asked
    assert set() == asked - names


def _operands(expression: str) -> set[str]:
    return set(re.findall(r"sam3ft_\w+", expression))


def test_all_choices_above_a_dashboard_have_values(observed: tuple[Live, PrometheusServer]) -> None:
    live, server = observed
    for make in DASHBOARDS:
        for variable in json.loads(make()[1])["templating"]["list"]:
            if variable["type"] != "query":
                continue
            selector, label = str(variable["query"]).removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            found = server.now(Shown({"namespace": live.site.namespace}).expression(selector))
            assert {series["metric"].get(label) for series in found} - {None, ""}


def test_every_line_of_the_log_has_the_documented_form(observed: tuple[Live, PrometheusServer]) -> None:
    work = observed[0].run.work
    lines = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    validator = jsonschema.Draft202012Validator(schema())

    assert {"started", "train_interval", "evaluation", "checkpoint_committed"} <= {line["event"] for line in lines}
    assert [] == [(line["event"], error.message) for line in lines for error in validator.iter_errors(line)]


# --- faults, each of which is mended again; in the order in which they stand -----------------------------------------


def test_nothing_fires_but_for_the_run_that_cannot_start(observed: tuple[Live, PrometheusServer]) -> None:
    server = observed[1]
    wait_for("RunUnschedulable fires", lambda: _fires(server, "RunUnschedulable", run="stuck"), within_s=60)
    # A site's run tells its steps twice a minute, which is seldom where a minute stands for an hour.
    others = [labels for labels in server.firing() if labels.get("job_name") not in ("stuck", "leaves")]

    assert [] == [labels for labels in others if labels["alertname"] in QUICK]


def test_a_scheduler_that_is_away_and_comes_back(observed: tuple[Live, PrometheusServer]) -> None:
    live, server = observed
    live.site.slurm.controller.stop()
    wait_for("SchedulerUnreachable fires", lambda: _fires(server, "SchedulerUnreachable", run="leaves"), within_s=180)
    live.site.slurm.controller.start()
    wait_for("and stops", lambda: not _fires(server, "SchedulerUnreachable"), within_s=180)


def test_trainers_that_stand_still_and_go_on(observed: tuple[Live, PrometheusServer]) -> None:
    live, server = observed
    live.run.signal_trainers(signal.SIGSTOP)
    wait_for("TrainingStalled fires", lambda: _fires(server, "TrainingStalled", run="blood"), within_s=120)
    wait_for("CheckpointStale fires", lambda: _fires(server, "CheckpointStale", run="blood"), within_s=120)
    live.run.signal_trainers(signal.SIGCONT)
    wait_for(
        "both stop",
        lambda: not any(_fires(server, name, run="blood") for name in ("TrainingStalled", "CheckpointStale")),
        within_s=120,
    )


def test_an_agent_that_is_killed_and_started_again(observed: tuple[Live, PrometheusServer]) -> None:
    live, server = observed
    live.site.agents[-1].kill()
    wait_for("BridgeLost fires", lambda: _fires(server, "BridgeLost", run="leaves"), within_s=300)
    live.site.agent()
    wait_for("and stops", lambda: not _fires(server, "BridgeLost"), within_s=180)


def test_operators_that_are_gone(observed: tuple[Live, PrometheusServer]) -> None:
    live, server = observed
    for process in live.site.processes:
        process.kill()
    wait_for("NoLeader fires", lambda: _fires(server, "NoLeader"), within_s=60)
