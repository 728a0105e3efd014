"""From a validation error to sentences that a user can act on: path, value, what is allowed, the closest key."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.fields import PATTERN_WORDS
from sam3ft_api.redact import shown

Path = tuple[str | int, ...]
Schema = dict[str, Any]

MAX_SHOWN = 12
"""Problems listed in one message; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document.

    Attributes:
        path: keys and indexes from the document's root.
        text: what is wrong, with the value and what is allowed.
    """

    path: Path
    text: str

    def __str__(self) -> str:
        """Return the dotted path and the text."""
        return f"{dotted(self.path)}: {self.text}" if self.path else self.text


def dotted(path: Path) -> str:
    """Return a path as people write it: `spec.workers.tolerations[0].key`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def find_problems(error: ValidationError, model: type[BaseModel]) -> tuple[Problem, ...]:
    """Return every problem of a failed validation, one for each place, in the order of the document.

    Args:
        error: what `model` raised.
        model: its JSON schema tells known keys and allowed values.
    """
    schema = _schema(model)
    problems: dict[Path, Problem] = {}
    for detail in error.errors(include_url=False):
        problem = _problem(detail, schema)
        problems.setdefault(problem.path, problem)
    return tuple(problems.values())


def invalid_config(
    problems: Iterable[Problem], *, source: str, place: Callable[[Path], str] = lambda _: ""
) -> InvalidConfig:
    """Return the error that lists the problems.

    Args:
        problems: at least one.
        source: what was read, for the first words of the message.
        place: tells where a path stands, as `line 12: `; empty by default.
    """
    lines = [f"{place(problem.path)}{problem}" for problem in problems]
    if len(lines) > MAX_SHOWN:
        lines = [*lines[:MAX_SHOWN], f"and {len(lines) - MAX_SHOWN} more"]
    return InvalidConfig(f"{source}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{source}:", *lines]))


def allowed(node: Schema, root: Schema) -> str:
    """Return in words which values a JSON schema allows.

    Args:
        node: the schema of one field.
        root: the schema whose `$defs` it refers to.
    """
    node = _resolve(node, root)
    if "enum" in node or "const" in node:
        return "one of " + ", ".join(shown(value).strip("'") for value in node.get("enum", [node.get("const")]))
    if "anyOf" in node and "type" not in node:
        return " or ".join(allowed(option, root) for option in _options(node))
    describe = _WORDS.get(str(node.get("type")))
    return describe(node, root) if describe else "any value"


def _number_words(node: Schema, _root: Schema) -> str:
    noun = "an integer" if node["type"] == "integer" else "a number"
    text = noun
    low, high = _bound(node, "minimum", "ge"), _bound(node, "maximum", "le")
    above, below = _bound(node, "exclusiveMinimum", "gt"), _bound(node, "exclusiveMaximum", "lt")
    text += f" from {low}" if low is not None else f" above {above}" if above is not None else ""
    text += f" to {high}" if high is not None else f" below {below}" if below is not None else ""
    step = _bound(node, "multipleOf", "multiple_of")
    return f"{text}, a multiple of {step}" if step is not None else text


def _bound(node: Schema, name: str, raw: str) -> float | None:
    """Read a bound; pydantic leaves its own word where a validator stands before the type."""
    value: float | None = node.get(name, node.get(raw))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text_words(node: Schema, _root: Schema) -> str:
    text = PATTERN_WORDS.get(node.get("pattern", ""), "text")
    return f"{text} (at most {node['maxLength']} characters)" if node.get("maxLength", 0) > 64 else text


def _list_words(node: Schema, root: Schema) -> str:
    items = allowed(node.get("items", {}), root)
    high = node.get("maxItems", node.get("maxLength"))
    return f"a list of {items}" + (f", at most {high}" if high is not None else "")


def _group_words(node: Schema, _root: Schema) -> str:
    return "a group with the keys " + ", ".join(node["properties"]) if "properties" in node else "a map"


_WORDS: dict[str, Callable[[Schema, Schema], str]] = {
    "boolean": lambda _node, _root: "true or false",
    "integer": _number_words,
    "number": _number_words,
    "string": _text_words,
    "array": _list_words,
    "object": _group_words,
}


@cache
def _schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema(by_alias=True)


def _resolve(node: Schema, root: Schema) -> Schema:
    """Follow references, and step through `anyOf` with null to the one real option."""
    while True:
        if "$ref" in node:
            node = root["$defs"][str(node["$ref"]).removeprefix("#/$defs/")]
        elif "anyOf" in node and len(_options(node)) == 1:
            node = _options(node)[0]
        else:
            return node


def _options(node: Schema) -> list[Schema]:
    return [option for option in node.get("anyOf", []) if option.get("type") != "null"]


def _child(node: Schema, part: str | int, root: Schema) -> Schema | None:
    node = _resolve(node, root)
    for option in _options(node) or [node]:
        option = _resolve(option, root)  # noqa: PLW2901 - the same option, its reference followed
        if isinstance(part, int):
            if "prefixItems" in option and part < len(option["prefixItems"]):
                return dict(option["prefixItems"][part])
            if isinstance(option.get("items"), dict):
                return dict(option["items"])
        elif part in option.get("properties", {}):
            return dict(option["properties"][part])
        elif isinstance(option.get("additionalProperties"), dict):
            return dict(option["additionalProperties"])
        elif "patternProperties" in option:
            return dict(next(iter(option["patternProperties"].values())))
    return None


def _problem(detail: ErrorDetails, root: Schema) -> Problem:
    """Walk the error's location through the schema, leaving out the marks that pydantic puts in for unions."""
    node = root
    path: Path = ()
    parts = list(detail["loc"])
    unknown = parts.pop() if detail["type"] == "extra_forbidden" else None
    key = bool(parts) and parts[-1] == "[key]"
    for part in parts[:-1] if key else parts:
        child = _child(node, part, root)
        if child is not None:
            node, path = child, (*path, part)
    if unknown is not None:
        return Problem((*path, unknown), _unknown_key(str(unknown), detail["input"], _resolve(node, root)))
    if key:
        return Problem(path, f"the key {shown(detail['input'])} is not allowed; {_reason(detail)}")
    return Problem(path, _wrong_value(detail, node, root))


def _unknown_key(key: str, value: object, node: Schema) -> str:
    known = list(node.get("properties", {}))
    if not known:
        return f"unknown key (value {shown(value)})"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
        name for name in known if name.lower().replace("_", "") == key.lower().replace("_", "")
    ]
    hint = f"; did you mean {close[0]}?" if close else ";"
    return f"unknown key (value {shown(value)}){hint} known keys here: {', '.join(known)}"


def _wrong_value(detail: ErrorDetails, node: Schema, root: Schema) -> str:
    if detail["type"] == "missing":
        return f"is required: {allowed(node, root)}"
    if detail["type"] in ("value_error", "assertion_error"):
        return _reason(detail)
    value = detail["input"]
    text = f"{shown(value)} is not allowed; expected {allowed(node, root)}"
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off") and "true or false" in text:
        return f"{text} (YAML 1.2 knows no yes, no, on, off)"
    if detail["type"] == "string_type" and isinstance(value, bool | int | float):
        return f"{text} (put it in quotes)"
    return text


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "string_pattern_mismatch":
        pattern = str(detail.get("ctx", {}).get("pattern", ""))
        return f"expected {PATTERN_WORDS.get(pattern, pattern)}"
    return detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
