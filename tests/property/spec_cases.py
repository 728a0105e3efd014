"""Specs that are right, wrong, and wrong by a hair: on them the verdicts of pydantic and API server are compared."""

import copy
from pathlib import Path
from typing import Any

import apiserver
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
    """Return a resource with a copy of the spec."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "run"}, "spec": copy.deepcopy(spec)}


def pydantic_verdict(document: dict[str, Any]) -> list[str]:
    """Return why our own validation refuses a resource; empty when it does not."""
    try:
        SAM3FineTune.model_validate(document)
    except ValidationError as error:
        return [str(problem["loc"]) + problem["msg"] for problem in error.errors()]
    return []


def assert_same_verdict(document: dict[str, Any]) -> bool:
    """Check that pydantic and the API server's stand-in agree on a new resource; returns whether they accept it."""
    ours, standing_in = pydantic_verdict(copy.deepcopy(document)), apiserver.verdict(document)

    assert bool(standing_in) == bool(ours), f"stand-in: {standing_in}\npydantic: {ours}\nspec: {document['spec']}"
    return not ours


def with_value(spec: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy of the spec with one field set."""
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
                "gs://b/x", "az://b/x", "preset:", "a/b", "a.b/c", "-a", "a-", "a..b",
                "r.example/i:1@sha256:0"]  # fmt: skip
        values += [*good, *(word + "\n" for word in good[:4])]
    return values


def candidates(path: tuple[str, ...]) -> list[Any]:
    """Return the values worth trying in a field."""
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


def values_of(path: tuple[str, ...]) -> list[Any]:
    """Return every value worth trying in a field, and those of every type."""
    return [*candidates(path), *ANY_TYPE]
