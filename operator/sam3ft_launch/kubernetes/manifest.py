"""Objects as YAML that every reader takes the same way, whether it knows YAML 1.1 or 1.2.

A string stands without quotes only where no reader could take it for anything else; texts of several lines keep their
lines.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})
_LINES = re.compile(r"[^\s\x00-\x1f\x7f-\xa0\u2028\u2029\ufeff][^\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]*\n")
_UNSEEN = re.compile(r"[\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")


def to_yaml(documents: Iterable[Any]) -> str:
    """Return JSON values as a stream of YAML documents."""
    return "---\n".join("".join(f"{line}\n" for line in _lines(document)) for document in documents)


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{_scalar(str(key))}:", item)
    elif isinstance(value, list | tuple) and value:
        for item in value:
            yield from _item(item)
    else:
        yield _scalar(value)


def _entry(head: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict | list | tuple) and value:
        yield head
        yield from (_inside(line) for line in _lines(value))
    elif isinstance(value, str) and value.count("\n") > 1 and _LINES.fullmatch(value) and not value.endswith("\n\n"):
        yield f"{head} |"
        yield from (_inside(line) for line in value.split("\n")[:-1])
    else:
        yield f"{head} {_scalar(value)}"


def _item(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list | tuple) and value:
        lines = _lines(value)
        yield f"- {next(lines)}"
        yield from (_inside(line) for line in lines)
    else:
        yield f"- {_scalar(value)}"


def _inside(line: str) -> str:
    return f"  {line}" if line else ""


def _scalar(value: Any) -> str:
    if isinstance(value, str) and not (_PLAIN.fullmatch(value) and value.lower() not in _WORDS):
        return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        # YAML 1.1 knows no exponent without a point, and would take 8e-05 for text.
        return re.sub(r"^(-?[0-9]+)e", r"\1.0e", json.dumps(value, allow_nan=False))
    return value if isinstance(value, str) else json.dumps(value)
