"""Hypothesis strategies of specs: whole ones with some changes, most of them wrong by a hair."""

import copy
from typing import Any

from hypothesis import strategies as st
from spec_cases import ANY_TYPE, FULL, LEAVES, SMALL, candidates, with_value

from sam3ft_api.crd import MUTABLE

PATHS = sorted(LEAVES)
ALWAYS_MUTABLE = [(name,) for name in MUTABLE] + [("workers", "nodes")]
OBJECTS = [path for path in PATHS if "properties" in LEAVES[path]]
STRANGE_NAMES = ("bogus", "_target_", "", "apiVersion", "metadata", "status", "$ref", "a b", "\u00e9", "__class__")
FEW = st.none() | st.integers(1, 6)
RULED: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("backend",): st.sampled_from(["kubernetes", "slurm"]),
    ("task",): st.sampled_from(["detection", "segmentation"]),
    ("slurm",): st.sampled_from([None, {"site": "alps"}]),
    ("data", "uri"): st.sampled_from([None, "s3://d/x"]),
    ("data", "train"): st.sampled_from([None, {"images": "s3://d/i", "annotations": "s3://d/a.json"}]),
    ("data", "exhaustive"): st.none() | st.booleans(),
    ("data", "exhaustiveCategories"): st.sampled_from([None, [], ["a"]]),
    ("training", "globalBatchSize"): st.integers(1, 20),
    ("training", "epochs"): FEW,
    ("training", "maxSteps"): FEW,
    ("training", "maxDuration"): st.sampled_from([None, "1h"]),
    ("workers", "nodes"): st.integers(1, 6),
    ("workers", "minNodes"): FEW,
    ("workers", "maxNodes"): FEW,
    ("workers", "gpusPerNode"): st.integers(0, 3),
    ("evaluation", "metric"): st.sampled_from(["bbox_AP", "segm_AP", "cgF1"]),
}


@st.composite
def changed_specs(draw: st.DrawFn, *, base: dict[str, Any] | None = None, most: int = 3) -> dict[str, Any]:
    """Draw a copy of the small or the full spec, or of `base`, with up to `most` changes."""
    spec: dict[str, Any] = copy.deepcopy(base or draw(st.sampled_from([SMALL, FULL["spec"]])))
    for _ in range(draw(st.integers(0, most))):
        spec = _changed(spec, draw)
    return spec


@st.composite
def mutable_specs(draw: st.DrawFn, base: dict[str, Any]) -> dict[str, Any]:
    """Draw a copy of `base` with another value in fields that may change at any time."""
    spec = copy.deepcopy(base)
    for path in draw(st.lists(st.sampled_from(ALWAYS_MUTABLE), max_size=2)):
        values = candidates(path) or [True, False]
        spec = with_value(spec, path, values[draw(st.integers(0, len(values) - 1))])
    return spec


def _changed(spec: dict[str, Any], draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["border", "border", "border", "type", "text", "absent", "unknown", "several"]))
    if kind == "several":
        return _several(spec, draw)
    if kind == "unknown":
        return _with_unknown(spec, draw)
    path = draw(st.sampled_from(PATHS))
    if kind == "absent":
        return _without(spec, path)
    if kind == "text":
        return with_value(spec, path, draw(st.text(max_size=12)))
    values = ANY_TYPE if kind == "type" else candidates(path) or ANY_TYPE
    return with_value(spec, path, values[draw(st.integers(0, len(values) - 1))])


def _with_unknown(spec: dict[str, Any], draw: st.DrawFn) -> dict[str, Any]:
    """Return the spec with a field that is none: a strange name, or a known one in another spelling."""
    path = draw(st.sampled_from([(), *OBJECTS]))
    known = [each[-1] for each in PATHS if each[:-1] == path]
    name = draw(st.sampled_from(known + list(STRANGE_NAMES)))
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    spelled = draw(st.sampled_from([snake, name.upper(), name.lower(), name.capitalize(), name + " "]))
    return with_value(spec, (*path, spelled), draw(st.sampled_from([None, 1, "x", {}])))


def _without(spec: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    changed = here = copy.deepcopy(spec)
    for key in path[:-1]:
        if not isinstance(here.get(key), dict):
            return changed
        here = here[key]
    here.pop(path[-1], None)
    return changed


def _several(spec: dict[str, Any], draw: st.DrawFn) -> dict[str, Any]:
    """Return the spec with some of the fields that rules read together, each valid by itself."""
    for path in draw(st.lists(st.sampled_from(sorted(RULED)), min_size=1, max_size=6, unique=True)):
        spec = with_value(spec, path, draw(RULED[path]))
    return spec


@st.composite
def ruled_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small spec with all the fields that rules read together, each valid by itself or absent."""
    spec = SMALL
    for path, values in RULED.items():
        if draw(st.booleans()):
            spec = with_value(spec, path, draw(values))
    return spec
