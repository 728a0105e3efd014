"""Take secrets out of text before it is shown: in errors, logs, status and events.

Secrets do not belong into specs or addresses at all; this catches the ones that are put there by mistake.
"""

import re

MASK = "***"

_SECRETS = (
    re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"),  # user:password@ of an address
    re.compile(
        r"(?i)(?<=[?&])(x-amz-(?:signature|credential|security-token)|sig|signature|token|access_?key|se)=[^&\s\"']+"
    ),
    re.compile(
        r"(?i)\b(?:aws_)?(?:secret_?access_?key|session_?token|password|passwd|token|secret)\s*[=:]\s*[\"']?[^\s,;\"']+"
    ),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),  # Hugging Face
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"),  # AWS key ids
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # JSON web tokens
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/-]{8,}=*"),
)


def redact(text: str) -> str:
    """Return the text with everything that looks like a credential replaced by `***`.

    Recognised are passwords inside addresses, signed query strings, `name=value` pairs of the usual variables, access
    key ids, Hugging Face tokens, bearer tokens and JSON web tokens.
    """
    for pattern in _SECRETS:
        text = pattern.sub(_mask, text)
    return text


def _mask(match: re.Match[str]) -> str:
    name, separator, _ = match.group(0).partition("=")
    if separator:
        return f"{name}={MASK}"
    name, separator, _ = match.group(0).partition(":")
    known = separator and re.fullmatch(r"(?i)[a-z_]*(?:key|token|password|passwd|secret)\s*", name)
    return f"{name}: {MASK}" if known else MASK


def shown(value: object, *, max_chars: int = 80) -> str:
    """Return a value as an error message shows it: on one line, redacted, at most `max_chars` characters."""
    text = redact(repr(value) if isinstance(value, str) else _plain(value))
    text = " ".join(text.split())
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


def _plain(value: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return str(value)
