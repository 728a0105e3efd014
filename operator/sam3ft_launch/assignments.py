"""`--set PATH=VALUE`: changes of the user's document before it is validated, so that they obey the same rules."""

from collections.abc import Sequence
from typing import Any

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.redact import shown
from sam3ft_api.yaml import read_yaml


def assign(document: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return the document with each assignment made in order; the given one is left as it was.

    A path names a field below `spec`, with or without that word: `training.epochs=3`. Missing groups are made; whether
    a field exists is the validation's business. A value is read as YAML 1.2: `8e-5` is a number, `[text]` a list.

    Raises:
        InvalidConfig: an assignment has no `=`, an empty part in its path, a value that is no YAML, or a path that
            leads through a value.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(parts):
            raise InvalidConfig(f"--set {assignment!r} is not PATH=VALUE; an example is --set training.epochs=3")
        parts = parts if parts[0] in ("spec", "metadata") else ["spec", *parts]
        document = _with_value(document, parts, _value(text, assignment), assignment)
    return document


def _with_value(group: dict[str, Any], parts: Sequence[str], value: Any, assignment: str) -> dict[str, Any]:
    first, *rest = parts
    if not rest:
        return {**group, first: value}
    inner = group.get(first)
    if inner is not None and not isinstance(inner, dict):
        raise InvalidConfig(f"--set {assignment!r}: {first!r} holds a value ({shown(inner)}), no group of fields")
    return {**group, first: _with_value(inner or {}, rest, value, assignment)}


def _value(text: str, assignment: str) -> Any:
    if not text.strip():
        raise InvalidConfig(f"--set {assignment!r}: the value is empty; write null to take a field back to its default")
    return read_yaml(text, name=f"--set {assignment!r}").data
