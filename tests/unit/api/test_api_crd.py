"""The generated CRD: no drift, small, structural, and the rules about what may change when."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apiserver
import pytest

from sam3ft_api import crd, limits
from sam3ft_api.schema import structural_schema
from sam3ft_api.section import SpecSection
from sam3ft_api.status import Phase
from sam3ft_api.yaml import read_yaml

ROOT = Path(__file__).parents[3]
FULL = read_yaml((ROOT / "tests/assets/specs/full.yaml").read_text(), name="full.yaml").data
STARTED = {"phase": "Running", "attempts": [{"n": 1}]}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


NODES = dict(nodes(apiserver.ROOT))


def test_all_versions_have_one_schema_and_one_is_stored() -> None:
    versions = crd.custom_resource_definition()["spec"]["versions"]

    assert 1 == sum(version["storage"] for version in versions)
    assert [versions[0] | {"name": "", "storage": True}] * len(versions) == [
        version | {"name": "", "storage": True} for version in versions
    ]


def test_the_file_in_the_repository_is_what_the_models_generate() -> None:
    assert crd.crd_text() == (ROOT / "crds" / crd.FILE_NAME).read_text(), (
        f"run python -m sam3ft_api.crd > crds/{crd.FILE_NAME}"
    )


def test_the_file_reads_back_as_the_same_data_and_is_small() -> None:
    text = (ROOT / "crds" / crd.FILE_NAME).read_text()

    assert limits.MAX_CRD_BYTES > len(text.encode())
    assert crd.custom_resource_definition() == _plain(text)


def _plain(text: str) -> Any:
    from ruamel.yaml import YAML  # noqa: PLC0415 - the project's own reader refuses ${ in a pattern

    return YAML(typ="safe", pure=True).load(text)


def test_no_word_of_the_file_means_another_thing_in_yaml_1_1() -> None:
    text = (ROOT / "crds" / crd.FILE_NAME).read_text()

    assert [] == re.findall(r"(?mi)^\s*(?:- )?(?:[^'\"\n]*: )?(?:y|n|yes|no|on|off)\s*$", text)
    assert [] == re.findall(r"(?mi)^\s*(?:y|n|yes|no|on|off):", text)
    assert [] == re.findall(r"(?m): \d+e[-+]?\d+$", text)


@pytest.mark.parametrize("path", NODES)
def test_the_schema_is_structural(path: str) -> None:
    node = NODES[path]

    assert not {"$ref", "$defs", "oneOf", "allOf", "not", "const", "nullable", "title"} & set(node)
    assert ("type" in node) != bool(node.get("x-kubernetes-int-or-string"))
    assert not ("properties" in node and "additionalProperties" in node)
    if path not in ("", ".apiVersion", ".kind", ".metadata") and not path.endswith("[]"):
        assert node.get("description"), "kubectl explain shows nothing"


@pytest.mark.parametrize("path", [path for path in NODES if path.startswith(".spec")])
def test_every_field_of_the_spec_is_bounded(path: str) -> None:
    node = NODES[path]

    bounds = {
        "string": {"enum"} if "enum" in node else {"maxLength", "pattern"},
        "array": {"maxItems"},
        "integer": {"minimum", "maximum"},
        "number": {"minimum", "maximum"},
        "boolean": set(),
        "object": {"maxProperties"} if "additionalProperties" in node else set(),
    }[node.get("type", "string")]
    assert bounds <= set(node)


def test_no_field_names_a_namespace_a_path_on_the_host_or_code() -> None:
    names = {path.rsplit(".", 1)[-1] for path in NODES if path.startswith(".spec")}

    assert not names & {"namespace", "hostPath", "serviceAccountName", "podTemplate", "_target_", "env", "command"}


def test_the_fields_of_the_spec_are_these() -> None:
    expected = (ROOT / "tests/golden/spec-fields.txt").read_text().split()

    assert expected == [path for path in NODES if path.startswith(".spec")]


def test_every_field_has_a_class_of_when_it_may_change() -> None:
    spec = apiserver.ROOT["properties"]["spec"]["properties"]

    assert sorted(spec) == sorted((*crd.MUTABLE, *crd.FROZEN, *crd.RESTING, "workers"))


def changed(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(FULL)
    here = document["spec"]
    *groups, last = path.split(".")
    for key in groups:
        here = here[key]
    if value is None:
        del here[last]
    else:
        here[last] = value
    return document


ALWAYS: tuple[tuple[str, Any], ...] = (
    ("workers.nodes", 5), ("suspend", False), ("retry", 2), ("activeDeadlineSeconds", 60),
    ("activeDeadlineSeconds", None), ("ttlSecondsAfterFinished", 5),
)  # fmt: skip
NEVER: tuple[tuple[str, Any], ...] = (
    ("backend", "kubernetes"), ("task", "detection"), ("model.uri", "s3://a/b"), ("data.uri", "s3://a/b"),
    ("data.phrases", {"blood cell": ["cell"]}), ("data.exhaustiveCategories", None), ("training.epochs", 3),
    ("training.maxDuration", None), ("training.learningRate", 1e-5), ("training.freeze", ["text"]),
    ("training.config", {"optim": {"clip_norm": 0.4}}), ("training.config", None), ("checkpoint.uri", "s3://a/b"),
    ("checkpoint.keepLast", 9),
)  # fmt: skip
AT_REST: tuple[tuple[str, Any], ...] = (
    ("evaluation.metric", "bbox_AP"), ("evaluation.earlyStopping", None), ("export.uri", "s3://a/b"),
    ("storage.secretRef", "other"), ("queue", None), ("queue.localQueue", "cpu"), ("slurm.partition", "cpu"),
    ("failurePolicy.maxRestarts", 4), ("workers.minNodes", 1), ("workers.maxNodes", None), ("workers.maxNodes", 7),
    ("workers.gpusPerNode", 4), ("workers.profile", "h100"), ("workers.resources.memory", "1Gi"),
    ("workers.resources.cpu", 16), ("workers.nodeSelector", None), ("workers.nodeSelector", {"a": "b"}),
    ("workers.tolerations", []), ("workers.priorityClassName", "x"), ("workers.image", "other"),
    ("workers.terminationGracePeriodSeconds", 60), ("workers.startDeadlineSeconds", 60), ("workers.warmSpares", False),
)  # fmt: skip


def refusals(path: str, value: Any, status: dict[str, Any] | None) -> list[str]:
    new, old = changed(path, value), copy.deepcopy(FULL)
    if status is not None:
        new["status"], old["status"] = copy.deepcopy(status), copy.deepcopy(status)
    if path == "task":  # the metric has to go along
        new["spec"]["evaluation"]["metric"] = old["spec"]["evaluation"]["metric"] = "bbox_AP"
    return apiserver.verdict(new, old)


@pytest.mark.parametrize(("path", "value"), ALWAYS)
def test_these_fields_change_while_the_run_is_active(path: str, value: Any) -> None:
    assert [] == refusals(path, value, STARTED)


@pytest.mark.parametrize(("path", "value"), NEVER)
def test_what_changes_the_numbers_is_frozen_once_an_attempt_has_begun(path: str, value: Any) -> None:
    top = path.split(".", maxsplit=1)[0]

    assert [] == refusals(path, value, None)
    assert [] == refusals(path, value, {"phase": "Checking", "attempts": []})
    for phase in ("Running", "Suspended"):
        [message] = refusals(path, value, STARTED | {"phase": phase})
        assert f"spec.{top} cannot change after the run has started" in message


@pytest.mark.parametrize(("path", "value"), AT_REST)
def test_the_rest_changes_while_nothing_runs(path: str, value: Any) -> None:
    assert [] == refusals(path, value, None)
    assert [] == refusals(path, value, STARTED | {"phase": "Suspended"})
    [message] = refusals(path, value, STARTED | {"phase": "Running"})
    assert "cannot change while the run is active" in message


@pytest.mark.parametrize("phase", Phase)
def test_nothing_runs_in_these_phases_alone(phase: Phase) -> None:
    allowed = [] == refusals("export.uri", "s3://a/b", STARTED | {"phase": phase.value})

    assert allowed == (phase in (Phase.SUSPENDED, Phase.FAILED, Phase.SUCCEEDED))


def test_retry_is_only_raised() -> None:
    [message] = refusals("retry", 0, {"phase": "Failed"})

    assert "spec.retry can only be raised" in message


def test_an_unchanged_resource_is_never_refused() -> None:
    for status in (None, STARTED, STARTED | {"phase": "Failed"}):
        assert [] == refusals("suspend", True, status)


def test_a_union_of_types_cannot_become_a_schema() -> None:
    class Bad(SpecSection):
        value: int | str

    with pytest.raises(ValueError, match=r"Bad\.value is a union of 2 types; split it"):
        structural_schema(Bad)
