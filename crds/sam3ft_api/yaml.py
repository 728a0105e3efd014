"""Reading the user's YAML as YAML 1.2, with errors that name the line, the path, the value and what is allowed.

YAML 1.2 is read because a 1.1 reader takes `8e-5` for text and `no` for false. A resource is read by kubectl as well:
what that would read otherwise is refused in it. Only plain data is accepted: no tags, no merge keys, no interpolation
(`${...}`), no `_target_`, no key twice; aliases are expanded within a bound.
"""

import math
import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from sam3ft_api import limits
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.problems import Path as KeyPath
from sam3ft_api.problems import Problem, find_problems, invalid_config
from sam3ft_api.redact import shown
from sam3ft_api.spec import SAM3FineTune

FORBIDDEN = {
    "${": "nothing is interpolated here; write the value itself",
    "_target_": "nothing is instantiated from a file; name a setting instead",
}
"""Text that is refused in every key and value, and why."""

_WORD = re.compile(r"y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF")
_NUMBER = re.compile(
    r"[-+]?(0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|"
    r"\.(nan|NaN|NAN)"
)
_OTHER_KEY = re.compile(rf"{_WORD.pattern}|True|TRUE|False|FALSE|null|Null|NULL|~")
"""Text without quotes that kubectl takes for booleans, numbers (underscores apart), and booleans or null as keys."""
_OCTAL = re.compile(r"[-+]?0[0-9]+")
_KEY_BY_ITSELF = re.compile(r"0|-?[1-9][0-9]{0,17}")

AnyModel = TypeVar("AnyModel", bound=BaseModel)

_CORE = "tag:yaml.org,2002:"
_AS_TEXT = ("str", "timestamp")


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data with the line on which each key or item stands.

    Attributes:
        data: dicts with string keys, lists, strings, numbers, booleans, None.
        lines: line number, from 1, by path.
        name: what was read, for messages.
    """

    data: Any
    lines: dict[KeyPath, int]
    name: str

    def place(self, path: KeyPath) -> str:
        """Return `line 12: ` for the path, or for the nearest group that contains it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"line {self.lines[path]}: " if path in self.lines else ""


def load_finetune(source: Path | str) -> SAM3FineTune:
    """Return the resource that a file or text holds.

    Args:
        source: a `Path`, or a string: the document itself when it has a line break, else a path.

    Raises:
        InvalidConfig: the file cannot be read, is no YAML 1.2, or does not hold one valid SAM3FineTune; every problem
            is listed with its line, path, value and what is allowed.
    """
    if isinstance(source, Path) or "\n" not in source:
        text, name = read_text(Path(source)), str(source)
    else:
        text, name = source, "the document"
    return read_as(SAM3FineTune, text, name=name, otherwise="is not a SAM3FineTune; see docs/yaml.md for an example")


def read_as(model: type[AnyModel], text: str, *, name: str, otherwise: str) -> AnyModel:
    """Return one YAML 1.2 document as a model.

    Args:
        model: what the document holds.
        text: the document.
        name: what is read, for messages.
        otherwise: what is said of a document that is no mapping, behind its value.

    Raises:
        InvalidConfig: as `read_yaml`, or the document holds something else; every problem is listed with its line,
            path, value and what is allowed.
    """
    document = read_yaml(text, name=name)
    if not isinstance(document.data, dict):
        raise InvalidConfig(f"{name}: {shown(document.data)} {otherwise}")
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise invalid_config(find_problems(error, model), source=name, place=document.place) from None


def read_yaml(text: str, *, name: str) -> Document:
    """Return one YAML 1.2 document as plain data.

    A number such as 20.0 or 1e3 becomes the integer, as kubectl sends it; a date stays text. What is accepted in a
    document with an `apiVersion` means to kubectl what it means here; integers beyond 64 bits become floats there.

    Args:
        text: the document.
        name: what is read, for messages.

    Raises:
        InvalidConfig: syntax errors, several documents, tags, merge keys, duplicate keys, forbidden text, what
            kubectl reads otherwise (`no`, `010`, the key `1.0` without quotes), or a document beyond
            `limits.MAX_YAML_NODES` and `limits.MAX_DEPTH`.
    """
    if len(text.encode()) > limits.MAX_FILE_BYTES:
        raise InvalidConfig(f"{name}: {len(text.encode())} bytes; at most {limits.MAX_FILE_BYTES} are read")
    reader = YAML(typ="safe", pure=True)
    try:
        nodes = [node for node in reader.compose_all(StringIO(text)) if node is not None]
    except YAMLError as error:
        raise InvalidConfig(f"{name}: {_syntax(error)}") from None
    if len(nodes) != 1:
        raise InvalidConfig(f"{name}: {len(nodes)} YAML documents; expected one")
    walker = _Walker(reader, name, for_kubectl=_is_resource(nodes[0]))
    data = walker.value(nodes[0], ())
    if walker.problems:
        raise invalid_config(walker.problems, source=name, place=Document(data, walker.lines, name).place)
    return Document(data, walker.lines, name)


def read_text(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        InvalidConfig: missing, not readable, not UTF-8, or above `limits.MAX_FILE_BYTES`.
    """
    try:
        if path.stat().st_size > limits.MAX_FILE_BYTES:
            raise InvalidConfig(f"{path}: {path.stat().st_size} bytes; at most {limits.MAX_FILE_BYTES} are read")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None
    except OSError as error:
        raise InvalidConfig(f"{path}: cannot be read: {error.strerror}; name a YAML file") from None


def _syntax(error: YAMLError) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        where = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
        return f"{where}: not YAML: {error.problem or error.context}"
    return f"not YAML: {str(error).splitlines()[0]}"


def _is_plain(node: ScalarNode) -> bool:
    return node.style not in ("'", '"', "|", ">")


def _is_resource(node: Node) -> bool:
    return isinstance(node, MappingNode) and any(key.value == "apiVersion" for key, _ in node.value)


def _read_otherwise(text: str, kind: str) -> str:
    """Return what kubectl makes of text without quotes, and what to write; empty when it reads what we do."""
    if _WORD.fullmatch(text):
        return "a word in YAML 1.2 and a boolean to kubectl; write true or false, or put it in quotes"
    if kind == "int" and _OCTAL.fullmatch(text):
        return "read in base 8 by kubectl; write it without the zero in front"
    if kind == "float" and text[-1].isdigit() and math.isinf(float(text.replace("_", ""))):
        return "too large for a number"
    if kind in ("int", "float") and "_" in text:
        return "not read as a number by everybody; write the digits without _"
    if kind == "str" and _is_number(text):
        return "a word in YAML 1.2 and a number to kubectl; write the number otherwise, or put it in quotes"
    return ""


def _is_converted(key: str) -> bool:
    """Tell whether kubectl makes another key of one without quotes (`1.0` becomes "1"), or refuses it."""
    return _OTHER_KEY.fullmatch(key) is not None or (_is_number(key) and _KEY_BY_ITSELF.fullmatch(key) is None)


def _is_number(text: str) -> bool:
    return text[:1] in "+-.0123456789" and _NUMBER.fullmatch(text.replace("_", "")) is not None


class _Walker:
    """Turns composed nodes into plain data, noting lines and problems on the way."""

    def __init__(self, reader: YAML, name: str, *, for_kubectl: bool) -> None:
        self._name, self._for_kubectl = name, for_kubectl
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._constructor = reader.constructor
        self._visited = 0

    def value(self, node: Node, path: KeyPath) -> Any:
        self._visited += 1
        self.lines.setdefault(path, node.start_mark.line + 1)
        if self._visited > limits.MAX_YAML_NODES or len(path) > limits.MAX_DEPTH:
            # Not a problem among others: going on would be the harm.
            raise InvalidConfig(
                f"{self._name}: line {node.start_mark.line + 1}: more than {limits.MAX_YAML_NODES} nodes or "
                f"{limits.MAX_DEPTH} levels after aliases are expanded; write a smaller document"
            )
        if isinstance(node, MappingNode) and str(node.tag) == f"{_CORE}map":
            return self._map(node, path)
        if isinstance(node, SequenceNode) and str(node.tag) == f"{_CORE}seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        self._problem(path, f"the tag {shown(str(node.tag))} is refused; write plain data")
        return None

    def _map(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._problem(path, "a key is text, not a list or a map")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in result:
                self._problem(here, f"the key stands here twice, first on line {self.lines[here]}; keep one")
                self.lines[here] = key_node.start_mark.line + 1
                continue
            self.lines[here] = key_node.start_mark.line + 1
            if key == "<<":
                self._problem(here, "merge keys are not YAML 1.2; write the keys out")
            self._check_text(key, here)
            if self._for_kubectl and _is_plain(key_node) and _is_converted(key):
                self._problem(here, "kubectl makes something else of this key; put it in quotes")
            result[key] = self.value(value_node, here)
        return result

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        kind = str(node.tag).removeprefix(_CORE)
        if self._for_kubectl and _is_plain(node) and (problem := _read_otherwise(str(node.value), kind)):
            self._problem(path, f"{shown(str(node.value))} is {problem}")
            return None
        if kind in _AS_TEXT:
            self._check_text(str(node.value), path)
            return str(node.value)
        if kind not in ("null", "bool", "int", "float"):
            self._problem(path, f"the tag {shown(str(node.tag))} is refused; write plain data")
            return None
        try:
            value = self._constructor.construct_object(node)
        except (ValueError, YAMLError):
            self._problem(path, f"{shown(str(node.value))} is no {kind}")
            return None
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def _check_text(self, text: str, path: KeyPath) -> None:
        for forbidden, why in FORBIDDEN.items():
            if forbidden in text:
                self._problem(path, f"{shown(text)} contains {forbidden}; {why}")

    def _problem(self, path: KeyPath, text: str) -> None:
        self.problems.append(Problem(path, text))
