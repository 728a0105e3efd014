"""What we accept in a file is what kubectl reads there."""

import json
import random
from typing import Any

import pytest
from control_plane import ControlPlane, kubectl

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.yaml import read_yaml

HEAD = """\
apiVersion: sam3ft.dev/v1alpha1
kind: SAM3FineTune
metadata: {name: run}
spec:
  model: {uri: 'preset:tiny'}
  data: {uri: s3://d/x}
  training:
    config:
"""
WORDS = (
    "yes", "no", "on", "off", "y", "N", "true", "True", "FALSE", "null", "~", "Null", "010", "0o10", "0x1F", "0b11",
    "1_000", "1e3", "1e+3", "8e-5", ".5", "5.", "+1", "-0", "1.0", "12:30:00", "1:30", "2026-01-01", "0777", "08",
    "1__0", "0O1", "0B1", "0X1f", "2026-01-01T00:00:00Z", "1e5", "+.5", "1d", "0.5h", "9007199254740993", "nan", "0x",
    "1e", "._7", "''", '"010"', "'yes'",
)  # fmt: skip


def accepted(text: str) -> bool:
    """Tell whether our reader takes a document."""
    try:
        read_yaml(text, name="x")
    except InvalidConfig:
        return False
    return True


def lines(scalars: list[str]) -> str:
    """Every scalar as a value and as a key, those that our reader refuses left out."""
    numbered = [(f"v{number}: {it}", f"k{number}: {{{it}: a}}") for number, it in enumerate(scalars)]
    return "".join(f"      {line}\n" for pair in numbered for line in pair if accepted(f"{HEAD}      {line}\n"))


def assert_read_alike(plane: ControlPlane, namespace: str, scalars: list[str]) -> None:
    text = HEAD + lines(scalars)
    theirs = kubectl(plane, "create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-", stdin=text)
    ours: dict[str, Any] = read_yaml(text, name="x").data["spec"]["training"]["config"]
    read = json.loads(theirs)["spec"]["training"]["config"]

    assert {} == {key: (ours[key], read.get(key)) for key in ours if not is_same(ours[key], read.get(key))}


def is_same(ours: object, theirs: object) -> bool:
    """Tell whether two values are equal, true and 1 apart."""
    return ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)


def test_words_that_readers_of_yaml_disagree_about_are_read_alike_or_refused(
    cluster: ControlPlane, namespace: str
) -> None:
    assert_read_alike(cluster, namespace, list(WORDS))


def test_random_words_are_read_alike_or_refused(cluster: ControlPlane, namespace: str) -> None:
    alphabet = "0011234567789+-..__eExXoObBaAyYnNtTrRuUfFlLsSiIdD:"
    words = ["".join(random.choices(alphabet, k=random.randint(1, 6))) for _ in range(1500)]

    assert_read_alike(cluster, namespace, [word for word in words if not word.endswith(":")])


@pytest.mark.soak
def test_many_random_words_are_read_alike_or_refused(cluster: ControlPlane, namespace: str) -> None:
    for _ in range(50):
        test_random_words_are_read_alike_or_refused(cluster, namespace)
