"""What a cluster cannot run is known before anything is made."""

from dataclasses import replace
from typing import Any

import pytest

from sam3ft_launch.kubernetes.settings import ClusterSettings
from sam3ft_operator import rendering
from sam3ft_operator.decision import Ensure, Part
from sam3ft_operator.rendering import ClusterRenderer
from sam3ft_operator.views import resource_view

SPEC = {
    "model": {"uri": "preset:tiny"},
    "data": {"uri": "s3://datasets/blood"},
    "training": {"maxSteps": 10},
    "checkpoint": {"uri": "s3://runs/blood"},
}


def body(**spec: Any) -> dict[str, Any]:
    """Return a resource."""
    metadata = {"name": "blood", "namespace": "lab", "uid": "u-1", "generation": 1, "resourceVersion": "5"}
    return {"metadata": metadata, "spec": SPEC | spec}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ""),
        ({"training": {"maxSteps": 10, "config": {"optim": {"no_such_setting": 1}}}}, "no_such_setting"),
        ({"workers": {"profile": "huge"}}, "huge"),
        ({"storage": {"profile": "elsewhere"}}, "elsewhere"),
        ({"data": {"uri": "folder"}}, "data.uri"),
    ],
)
def test_a_resource_that_cannot_be_planned_is_refused_with_its_field(spec: dict[str, Any], words: str) -> None:
    renderer = ClusterRenderer(ClusterSettings(operator_image="operator:1", trainer_image="trainer:1"))
    resource = resource_view(body(**spec))
    why = renderer.refusal(resource) if resource.spec is not None else resource.refusal

    assert words in why
    assert bool(words) == bool(why)


def test_a_spec_is_judged_once_for_each_of_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = ClusterRenderer(ClusterSettings(operator_image="operator:1", trainer_image="trainer:1"))
    real, judged = rendering.plan_on_cluster, []

    def counted(*arguments: Any, **more: Any) -> Any:
        judged.append(more["uid"])
        return real(*arguments, **more)

    monkeypatch.setattr(rendering, "plan_on_cluster", counted)
    resource = resource_view(body(workers={"profile": "huge"}))
    again = [renderer.refusal(resource) for _ in range(3)]
    renderer.refusal(replace(resource, generation=2))

    assert 1 == len(set(again))
    assert 2 == len(judged)


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_coordinator_s_gate_waits_for_as_many_nodes_as_the_run_wants(nodes: int) -> None:
    renderer = ClusterRenderer(ClusterSettings(operator_image="operator:1", trainer_image="trainer:1"))
    training = {"maxSteps": 10, "globalBatchSize": 8}
    resource = resource_view(body(training=training, workers={"nodes": nodes, "maxNodes": 4}))

    made = renderer.objects(resource, Ensure(Part.GROUP, attempt=1))
    (pod,) = [it for it in made if it["kind"] == "Pod"]
    arguments = pod["spec"]["containers"][0]["args"]
    assert str(nodes) == arguments[arguments.index("--nodes") + 1]
