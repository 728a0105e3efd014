"""`--set PATH=VALUE` changes the document before it is validated."""

from typing import Any

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.assignments import assign


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("training.epochs=3", {"spec": {"training": {"epochs": 3, "seed": 1}}}),
        ("spec.training.epochs=3", {"spec": {"training": {"epochs": 3, "seed": 1}}}),
        ("training.seed=2", {"spec": {"training": {"seed": 2}}}),
        ("model.uri=preset:tiny", {"spec": {"training": {"seed": 1}, "model": {"uri": "preset:tiny"}}}),
        ("training.learningRate=8e-5", {"spec": {"training": {"seed": 1, "learningRate": 8e-5}}}),
        ("training.freeze=[text, neck]", {"spec": {"training": {"seed": 1, "freeze": ["text", "neck"]}}}),
        ("training.seed=null", {"spec": {"training": {"seed": None}}}),
        ("task=no", {"spec": {"training": {"seed": 1}, "task": "no"}}),
        ("data.uri=a=b", {"spec": {"training": {"seed": 1}, "data": {"uri": "a=b"}}}),
    ],
)
def test_a_path_below_spec_is_set_to_a_yaml_value(assignment: str, expected: dict[str, Any]):
    assert expected == assign({"spec": {"training": {"seed": 1}}}, [assignment])


def test_metadata_can_be_set_too():
    assert {"metadata": {"name": "b"}} == assign({"metadata": {"name": "a"}}, ["metadata.name=b"])


def test_later_assignments_win_and_the_given_document_stays():
    document = {"spec": {"training": {"epochs": 1}}}

    changed = assign(document, ["training.epochs=2", "training.epochs=3"])

    assert {"spec": {"training": {"epochs": 3}}} == changed
    assert {"spec": {"training": {"epochs": 1}}} == document


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("training.epochs", "is not PATH=VALUE"),
        ("=3", "is not PATH=VALUE"),
        ("training..epochs=3", "is not PATH=VALUE"),
        ("training.epochs=", "the value is empty"),
        ("training.epochs=[1", "not YAML"),
        ("training.seed.more=1", "'seed' holds a value"),
        ("data.uri=${HOME}", "contains"),
        ("training.config={_target_: os.system}", "_target_"),
    ],
)
def test_a_wrong_assignment_is_refused_and_named(assignment: str, words: str):
    with pytest.raises(InvalidConfig, match="--set") as caught:
        assign({"spec": {"training": {"seed": 1}}}, [assignment])

    assert words in str(caught.value)
