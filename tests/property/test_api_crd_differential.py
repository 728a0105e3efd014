"""The API server and pydantic give the same verdict on any spec, `training.config` apart."""

import copy
from pathlib import Path
from typing import Any

import apiserver
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sam3ft_api.spec import API_VERSION, KIND, SAM3FineTune
from sam3ft_api.yaml import read_yaml

FULL = read_yaml((Path(__file__).parents[1] / "assets/specs/full.yaml").read_text(), name="full.yaml").data
SMALL = {"model": {"uri": "preset:tiny"}, "data": {"uri": "s3://d/x"}}
LEAVES = {
    path: schema
    for path, schema in apiserver.leaves(apiserver.ROOT["properties"]["spec"]).items()
    if path and path[:2] != ("training", "config")
}
ANY_TYPE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 20.0, 0.5, -0.0, 1e300, 2**53, 2**63, 10**30, "", "1", "true", "x", " ", "${x}",
    "a\nb", "a\n", "\u00a0", "caf\u00e9", "$", "$$", "$ {", "${", "_target_", [], {}, [None], [1], ["x", "x"], ["x"],
    {"x": None}, {"x": "y"}, {"x": ["y"]}, {"_target_": ["y"]}, {"${a}": ["y"]}, {"a b": "y"}, {"": "y"}, {"": ["y"]},
    {"a/b/c": "y"}, {"x" * 257: ["y"]}, {"x": []}, {"x": [""]}, {"x": ["${"]}, {"x": ["y"] * 17}, {"a\n": ["y"]},
)  # fmt: skip


def resource(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "run"}, "spec": copy.deepcopy(spec)}


def pydantic_verdict(document: dict[str, Any]) -> list[str]:
    try:
        SAM3FineTune.model_validate(document)
    except ValidationError as error:
        return [str(problem["loc"]) + problem["msg"] for problem in error.errors()]
    return []


def with_value(spec: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(spec)
    here = changed
    for key in path[:-1]:
        if not isinstance(here.get(key), dict):
            here[key] = {}
        here = here[key]
    here[path[-1]] = copy.deepcopy(value)
    return changed


def borders(schema: dict[str, Any]) -> list[Any]:
    """Values on and beside every bound of a field, and its own words with something wrong about them."""
    values: list[Any] = list(schema.get("enum", ()))
    for key in ("minimum", "maximum"):
        if key in schema:
            bound = schema[key]
            values += [bound, bound - 1, bound + 1, float(bound), bound * (1 + 1e-12), bound * (1 - 1e-12)]
    if "multipleOf" in schema:
        values += [schema["multipleOf"] * 5, schema["multipleOf"] * 5 + 1, 70.0, 70.5]
    if "maxLength" in schema:
        values += ["a" * schema["maxLength"], "a" * (schema["maxLength"] + 1), "\u00e9" * schema["maxLength"]]
    if "maxItems" in schema:
        words = schema["items"].get("enum") or [f"w{i}" for i in range(schema["maxItems"] + 1)]
        values += [words[: schema["maxItems"]], [*words[: schema["maxItems"]], "w"], [words[0], words[0]]]
    if "maxProperties" in schema:
        values += [{f"k{i}": ["v"] for i in range(n)} for n in (schema["maxProperties"], schema["maxProperties"] + 1)]
    if "pattern" in schema:
        good = ["a", "A-1", "a.b", "12h", "012h", "90s", "1d", "999d", "1000d", "500m", "64Gi", "1.5", "1e3", "s3://b",
                "s3://b/x y", "s3:///x", "http://x", "./runs", "/data/x", "hf://a/b@c", "hf://a", "preset:tiny",
                "preset:", "a/b", "a.b/c", "-a", "a-", "a..b", "r.example/i:1@sha256:0"]  # fmt: skip
        values += [*good, *(word + "\n" for word in good[:4])]
    return values


def candidates(path: tuple[str, ...]) -> list[Any]:
    schema = LEAVES[path]
    if schema.get("items", {}).get("type") == "object":
        parts = [
            {"key": "a"}, {"key": "a", "operator": "Exists"}, {"operator": "Exists"}, {}, {"key": None},
            {"key": "a", "value": ""}, {"operator": "Exists", "value": ""}, {"operator": "Exists", "value": "v"},
            {"key": "a", "tolerationSeconds": 3}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 3.0},
            {"key": "a", "effect": "NoExecute", "tolerationSeconds": -1}, {"key": "a", "bogus": 1}, {"key": "a b"},
        ]  # fmt: skip
        return [[part] for part in parts] + [[parts[0]] * 33, [None]]
    return borders(schema)


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
