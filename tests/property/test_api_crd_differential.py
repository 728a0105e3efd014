"""The stand-in of the API server and pydantic give the same verdict on any spec, `training.config` apart.

Needs no server, so every border of every field is tried at each change. `test_crd_differential.py` asks a real API
server, too: it shows that the stand-in is right.
"""

from typing import Any

import apiserver
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_cases import FULL, LEAVES, SMALL, assert_same_verdict, pydantic_verdict, resource, values_of, with_value
from spec_strategies import changed_specs, ruled_specs


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_field_has_the_same_verdict_on_its_borders_and_on_every_type(path: tuple[str, ...]) -> None:
    for value in values_of(path):
        assert_same_verdict(resource(with_value(SMALL, path, value)))


def test_the_full_example_sets_every_field_and_both_accept_it() -> None:
    missing = [".".join(path) for path in LEAVES if not _present(FULL["spec"], path)]

    assert missing == ["data.exhaustive", "training.maxSteps"]  # each excludes a neighbour
    assert pydantic_verdict(FULL) == []
    assert apiserver.verdict(FULL) == []


@pytest.mark.parametrize("value", ["blood", "a" * 63, "a" * 64, "Blood", "a.b", "-a", "a-", "1", "a\n", ""])
def test_names_have_the_same_verdict(value: str) -> None:
    document = resource(SMALL)
    document["metadata"]["name"] = value

    assert_same_verdict(document)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spec=changed_specs(most=4))
def test_any_combination_of_changes_has_the_same_verdict(spec: dict[str, Any]) -> None:
    assert_same_verdict(resource(spec))


@settings(max_examples=200, deadline=None)
@given(spec=ruled_specs())
def test_rules_over_several_fields_have_the_same_verdict(spec: dict[str, Any]) -> None:
    assert_same_verdict(resource(spec))


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=12))
def test_any_text_has_the_same_verdict_in_every_kind_of_field(text: str) -> None:
    for path in (("model", "uri"), ("data", "uri"), ("training", "maxDuration"), ("workers", "image"),
                 ("workers", "profile"), ("storage", "secretRef"), ("slurm", "site"), ("slurm", "account"),
                 ("workers", "resources", "cpu")):  # fmt: skip
        assert_same_verdict(resource(with_value({**SMALL, "slurm": {"site": "a"}}, path, text)))
    assert_same_verdict(resource(with_value(SMALL, ("data", "phrases"), {text: [text or "x"]})))
    assert_same_verdict(resource(with_value(SMALL, ("workers", "nodeSelector"), {text: text})))
    assert_same_verdict(resource(with_value(SMALL, ("data", "exhaustiveCategories"), [text, "other"])))


def _present(spec: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(spec, dict) or key not in spec:
            return False
        spec = spec[key]
    return True
