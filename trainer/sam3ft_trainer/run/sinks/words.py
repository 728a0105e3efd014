"""What may be shown of a library's error: one line without secrets, those known by value among them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from urllib.parse import unquote

from sam3ft_api.redact import MASK, redact
from sam3ft_api.sinks import SECRETS
from sam3ft_trainer.run.sinks.sink import SinkUnusable

MAX_CHARS = 500
"""Characters of an error's line."""
MIN_SECRET_CHARS = 6
"""Shorter texts are no secrets, and would be found everywhere."""


def secret_texts(environ: Mapping[str, str]) -> frozenset[str]:
    """Return every text that must not be shown: the values of `SECRETS`, and the parts of which headers consist."""
    found = {part for name in SECRETS if (value := environ.get(name)) for part in _parts(value)}
    return frozenset(part for part in found if len(part) >= MIN_SECRET_CHARS)


def speaker(secrets: Collection[str]) -> Callable[[BaseException], str]:
    """Return what makes one line of an error: kind and words, redacted, cut at `MAX_CHARS`; our own has no kind."""
    longest_first = sorted(secrets, key=len, reverse=True)

    def speak(error: BaseException) -> str:
        text = str(error)
        for secret in longest_first:
            text = text.replace(secret, MASK)
        words = " ".join(redact(text).split())
        kind = "" if isinstance(error, SinkUnusable) else type(error).__name__
        return ": ".join(part for part in (kind, words) if part)[:MAX_CHARS]

    return speak


def _parts(value: str) -> Iterator[str]:
    """Yield a value, and of headers (`name=value,name=value`, percent-encoded) each value and its words."""
    yield value
    for pair in value.split(","):
        header = pair.partition("=")[2].strip()
        for text in (header, unquote(header)):
            yield text
            yield from text.split()
