"""docs/metrics.md names what the two programs show, and nothing else; its PodMonitor selects the coordinator's pod."""

import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metrics_bench import PROGRESS, started
from objects_bench import rendered
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from sam3ft_api import names
from sam3ft_api.messages import Heartbeat, Verdict
from sam3ft_api.yaml import read_yaml
from sam3ft_launch.coordinator.events import Departure, Refusal, RoundCause
from sam3ft_launch.coordinator.exposition import Exposition
from sam3ft_launch.coordinator.metrics import TRAIN_STATES
from sam3ft_launch.coordinator.roster import NodeState
from sam3ft_launch.coordinator.view import RUN_STATES
from sam3ft_launch.kubernetes.settings import PROGRESS_PORT
from sam3ft_operator.app import Operator
from sam3ft_operator.metrics import Metrics

PAGE = (Path(__file__).parents[3] / "docs/metrics.md").read_text()
ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \|[^|]*\|(?P<labels>[^|]*)\|(?P<meaning>[^|]*)\|$", re.MULTILINE
)
Described = dict[str, tuple[str, frozenset[str]]]
RESOURCE: dict[str, Any] = {
    "metadata": {"name": "blood", "namespace": "lab"},
    "spec": {"backend": "kubernetes", "task": "detection"},
    "status": {
        "phase": "Running",
        "progress": {"ratio": 0.3, "etaSeconds": 1, "imagesPerSecond": 1, "lastStepTime": "2026-11-25T10:00:00Z"},
        "checkpoint": {"time": "2026-11-25T09:59:00Z"},
        "goodput": {"ratio": 0.9, "lostSeconds": {"start": 12}},
        "workers": {"desired": 1, "ready": 1, "world": 8},
        "conditions": [{"type": "Degraded", "status": "True", "reason": "ImagePullBackOff"}],
    },
}
IMPLIED = frozenset({"le"})
"""Labels of every histogram."""


def shown(families: Iterable[Metric]) -> Described:
    """Return type and labels of every metric; one without a series would hide its labels."""
    found: Described = {}
    for family in families:
        assert family.samples, f"{family.name} has no series here"
        labels = frozenset(label for sample in family.samples for label in sample.labels) - IMPLIED
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, labels)
    return found


def coordinators() -> Described:
    run = started(1)
    run.say(0, Heartbeat(seq=1, commit_step=100, progress=PROGRESS))
    run.say(0, Verdict(code=11))
    run.counts.commit_unix_s = 1.0
    text = Exposition(run.rounds, run.counts).answer("", now_s=run.now_s)[1].decode()
    return shown(text_string_to_metric_families(text))


def operators() -> Described:
    metrics = Metrics(lambda: [RESOURCE])
    ended = {"phase": "Running", "attempts": [{"n": 1, "reason": "Hung", "started": "2026-11-25T10:00:00Z"}]}
    metrics.status_written({"phase": "Starting"}, ended, now_s=2e9)
    metrics.requested("create", "Job", 201)
    metrics.looked(0.1, failed=True)
    by_kind = lambda: {("Pod",): 1.0}  # noqa: E731 - stands for three readers
    agents = SimpleNamespace(silences=lambda: {("lab", "alps"): 1.0})
    parts = SimpleNamespace(
        metrics=metrics, _silences=by_kind, _relists=by_kind, _cached=by_kind, _watches=[], _agents=agents
    )
    for part in ("_elector", "_queue", "_notes", "_lists", "_resync", "_progress"):
        counter = SimpleNamespace(is_leading=True, depth=lambda: 1, dropped=1, corrections=1, unanswered=1)
        setattr(parts, part, counter)
    Operator._add_states(parts)  # type: ignore[arg-type]
    return shown(text_string_to_metric_families(metrics.text().decode()))


def described(*sections: str) -> Described:
    text = "".join(PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0] for section in sections)
    rows = list(ROW.finditer(text))
    assert len(rows) == len({row["name"] for row in rows})
    return {row["name"]: (row["type"], frozenset(re.findall(r"\w+", row["labels"]))) for row in rows}


def test_the_page_names_every_metric_of_the_coordinator_and_no_other() -> None:
    assert coordinators() == described("The coordinator: training", "The coordinator: the group")


def test_the_page_names_every_metric_of_the_operator_and_no_other() -> None:
    shown = operators()
    own = {name: said for name, said in shown.items() if not name.startswith("process_")}
    assert own == described("The operator: resources", "The operator: itself")
    assert set(shown) - set(own) == {name for name in coordinators() if name.startswith("process_")}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sam3ft_train_state", (*TRAIN_STATES, "other")),
        ("sam3ft_group_state", RUN_STATES),
        ("sam3ft_group_nodes", tuple(NodeState)),
        ("sam3ft_group_rounds_total", tuple(RoundCause)),
        ("sam3ft_group_departures_total", tuple(Departure)),
        ("sam3ft_group_connections_refused_total", tuple(Refusal)),
    ],
)
def test_every_value_of_a_closed_label_is_named(name: str, words: tuple[str, ...]) -> None:
    (row,) = [row for row in ROW.finditer(PAGE) if row["name"] == name]

    assert set(words) <= set(re.findall(r"\w+", row["meaning"]))


def test_the_page_names_what_the_operator_shows_of_runs_on_sites() -> None:
    progress = {"step": 1, "totalSteps": 2, "epoch": 0.5, "loss": 1.0}
    more = {
        "progress": RESOURCE["status"]["progress"] | progress,
        "best": {"metric": "bbox_AP", "value": 0.5, "step": 1},
    }
    more |= {"checkpoint": {"time": "2026-11-25T09:59:00Z", "step": 1}, "workers": {"world": 1}}
    on_a_site = RESOURCE | {"spec": {"backend": "slurm"}, "status": RESOURCE["status"] | more}
    families = text_string_to_metric_families(Metrics(lambda: [on_a_site]).text().decode())
    named = PAGE.split("\n### Runs on SLURM sites\n")[1].split("\n## ")[0]

    found = {family.name for family in families if family.name.startswith("sam3ft_train_") and family.samples}
    assert found == set(re.findall(r"sam3ft_train_\w+", named))
    assert found < coordinators().keys()


def test_names_in_examples_and_queries_exist() -> None:
    known = coordinators().keys() | operators().keys()

    assert [] == [name for name in re.findall(r"\bsam3ft_[a-z_]+[a-z]\b", PAGE) if name not in known]


def test_the_pod_monitor_selects_the_coordinator_alone_and_finds_port_and_labels() -> None:
    monitor = read_yaml(PAGE.split("```yaml\n")[1].split("```")[0], name="page").data["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    objects = [item for item in rendered().objects if item["kind"] in {"Pod", "Job"}]
    pods = [(item if item["kind"] == "Pod" else item["spec"]["template"]) for item in objects]
    selected = [pod for pod in pods if monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()]

    (pod,) = selected
    assert len(pods) > 1
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert (PROGRESS_PORT, "/metrics") == (ports[endpoint["port"]], endpoint["path"])
    (source,) = endpoint["relabelings"][0]["sourceLabels"]
    assert source == "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", names.LABEL_RUN)
    assert "blood-cells" == pod["metadata"]["labels"][names.LABEL_RUN]
