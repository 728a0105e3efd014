"""Reading a config document: JSON in, a validated TrainingConfig out, or one message that names every fault."""

import difflib
import json

from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import TrainingConfig


def parse_document(text: str) -> TrainingConfig:
    """Parse and validate JSON text.

    Raises:
        InvalidConfig: it is no JSON object, or holds settings that are not allowed.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidConfig(
            f"the config document is not JSON: {error}; write it with sam3ft plan or compose"
        ) from error
    return validate_document(document)


def validate_document(document: object) -> TrainingConfig:
    """Validate a config document as read from JSON or composed from groups.

    Raises:
        InvalidConfig: one line for each wrong setting, with its path, its value and what is allowed.
    """
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            path = ".".join(str(part) for part in problem["loc"]) or "the document"
            value = str(problem["input"])[:256]
            lines.append(f"{path} = {value}: {problem['msg']}{_closest(path)}")
        raise InvalidConfig("; ".join(lines)) from error


def known_keys() -> list[str]:
    """Return every dotted key of the contract, in document order."""
    return [key for key, _ in _flatten("", TrainingConfig().model_dump(mode="json"))]


def _flatten(prefix: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [item for key, child in value.items() for item in _flatten(f"{prefix}{key}.", child)]
    return [(prefix.rstrip("."), value)]


def _closest(path: str) -> str:
    known = known_keys()
    if path in known:
        return ""
    close = difflib.get_close_matches(path, known, n=1)
    return f" (the closest setting is {close[0]})" if close else ""
