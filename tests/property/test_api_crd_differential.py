"""The API server and pydantic give the same verdict on any spec, `training.config` apart."""

import copy
from typing import Any

import apiserver
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_cases import ANY_TYPE, FULL, LEAVES, SMALL, candidates, pydantic_verdict, resource, with_value


def assert_same(document: dict[str, Any]) -> None:
    ours, theirs = pydantic_verdict(copy.deepcopy(document)), apiserver.verdict(document)

    assert bool(theirs) == bool(ours), f"API server: {theirs}\npydantic: {ours}\nspec: {document['spec']}"


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_field_has_the_same_verdict_on_its_borders_and_on_every_type(path: tuple[str, ...]) -> None:
    for value in (*candidates(path), *ANY_TYPE):
        assert_same(resource(with_value(SMALL, path, value)))


def test_the_full_example_sets_every_field_and_both_accept_it() -> None:
    missing = [".".join(path) for path in LEAVES if not _present(FULL["spec"], path)]

    assert missing == ["data.exhaustive", "training.maxSteps"]  # each excludes a neighbour
    assert pydantic_verdict(FULL) == []
    assert apiserver.verdict(FULL) == []


@pytest.mark.parametrize("value", ["blood", "a" * 63, "a" * 64, "Blood", "a.b", "-a", "a-", "1", "a\n", ""])
def test_names_have_the_same_verdict(value: str) -> None:
    document = resource(SMALL)
    document["metadata"]["name"] = value

    assert_same(document)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_combination_of_changes_has_the_same_verdict(data: st.DataObject) -> None:
    spec = copy.deepcopy(data.draw(st.sampled_from([SMALL, FULL["spec"]])))
    for _ in range(data.draw(st.integers(0, 4))):
        path = data.draw(st.sampled_from(sorted(LEAVES)))
        values = [*ANY_TYPE, *(candidates(path) * 3)]
        value = values[data.draw(st.integers(0, len(values) - 1))]
        spec = with_value(spec, path, value)

    assert_same(resource(spec))


@settings(max_examples=100, deadline=None)
@given(
    nodes=st.integers(1, 6), low=st.integers(1, 6), high=st.none() | st.integers(1, 6), gpus=st.integers(0, 3),
    batch=st.integers(1, 20), task=st.sampled_from(["detection", "segmentation"]),
    metric=st.sampled_from(["bbox_AP", "segm_AP", "cgF1"]), backend=st.sampled_from(["kubernetes", "slurm"]),
    site=st.booleans(), epochs=st.none() | st.just(2), steps=st.none() | st.just(3),
    exhaustive=st.none() | st.booleans(), names=st.none() | st.just(["a"]),
)  # fmt: skip
def test_rules_over_several_fields_have_the_same_verdict(**draw: Any) -> None:
    spec = {
        "backend": draw["backend"],
        "task": draw["task"],
        "model": {"uri": "preset:tiny"},
        "data": {"uri": "s3://d/x", "exhaustive": draw["exhaustive"], "exhaustiveCategories": draw["names"]},
        "training": {"globalBatchSize": draw["batch"], "epochs": draw["epochs"], "maxSteps": draw["steps"]},
        "workers": {
            "nodes": draw["nodes"], "minNodes": draw["low"], "maxNodes": draw["high"], "gpusPerNode": draw["gpus"],
        },
        "evaluation": {"metric": draw["metric"]},
        "slurm": {"site": "alps"} if draw["site"] else None,
    }  # fmt: skip

    assert_same(resource(spec))


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=12))
def test_any_text_has_the_same_verdict_in_every_kind_of_field(text: str) -> None:
    for path in (("model", "uri"), ("data", "uri"), ("training", "maxDuration"), ("workers", "image"),
                 ("workers", "profile"), ("storage", "secretRef"), ("slurm", "site"), ("slurm", "account"),
                 ("workers", "resources", "cpu")):  # fmt: skip
        assert_same(resource(with_value({**SMALL, "slurm": {"site": "a"}}, path, text)))
    assert_same(resource(with_value(SMALL, ("data", "phrases"), {text: [text or "x"]})))
    assert_same(resource(with_value(SMALL, ("workers", "nodeSelector"), {text: text})))
    assert_same(resource(with_value(SMALL, ("data", "exhaustiveCategories"), [text, "other"])))


def _present(spec: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(spec, dict) or key not in spec:
            return False
        spec = spec[key]
    return True
