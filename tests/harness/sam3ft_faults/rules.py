"""What a proxy does to which requests; pure values, sent to the proxy's process as JSON."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

Fault = Literal[
    "none", "status", "blackhole", "reset", "half-close", "stall", "lose-response", "corrupt", "short", "reset-request"
]
"""How an exchange is spoilt:

none            passed on; for `delay_s` and `bytes_per_s` alone
status          answered by the proxy with `status`; the server never hears of it
blackhole       taken, never answered, never passed on
reset           the answer is cut by a RST after `at_byte` bytes of its body
half-close      the answer ends with a FIN after `at_byte` bytes, the other direction stays open
stall           the answer stops after `at_byte` bytes, the connection stays open
lose-response   passed on and answered by the server; the client gets a RST instead of the answer
corrupt         bit 0 of byte `at_byte` of the answer's body is flipped
short           the answer's body ends at `at_byte`, and its Content-Length says so: nothing on the wire is wrong
reset-request   the request is cut by a RST on both sides after `at_byte` bytes of its body
"""
FAULTS: tuple[str, ...] = Fault.__args__  # type: ignore[attr-defined]
SLOW_DOWN = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    "<Message>Please reduce your request rate.</Message><RequestId>0</RequestId></Error>"
)
"""The body of a 503 as S3 words it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Spoils the requests that match. Of several rules the first one that strikes decides.

    Attributes:
        fault: what happens; see `Fault`.
        methods: of the requests, upper case; none are all.
        path: regular expression searched for in the request's target, with its query.
        share: of the matching requests that are struck, 0 to 1, drawn with the proxy's seed.
        skip: matching requests that are let pass first.
        times: requests that are struck at most; None has no end.
        after_s: seconds after the rule was set from which on it strikes.
        for_s: seconds for which it then strikes; None has no end.
        at_byte: of the body; clamped to its last byte where the length is known.
        delay_s: wait before the request is passed on, s.
        bytes_per_s: bound of both bodies, bytes/s; None has no bound.
        status: of the answer for `status`.
        body: of that answer.
    """

    fault: Fault = "none"
    methods: tuple[str, ...] = ()
    path: str = ""
    share: float = 1.0
    skip: int = 0
    times: int | None = None
    after_s: float = 0.0
    for_s: float | None = None
    at_byte: int = 0
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    status: int = 503
    body: str = SLOW_DOWN

    def __post_init__(self) -> None:
        """Refuse what can never mean anything.

        Raises:
            ValueError: an unknown fault, a share outside 0..1, a negative number, or no regular expression.
        """
        if self.fault not in FAULTS:
            raise ValueError(f"fault {self.fault!r} is unknown; allowed are {', '.join(FAULTS)}")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share {self.share} is not within 0..1")
        if min(self.skip, self.at_byte, self.delay_s, self.after_s, self.times or 0, self.for_s or 0) < 0:
            raise ValueError(f"{self} counts or waits a negative amount")
        if self.bytes_per_s is not None and self.bytes_per_s <= 0:
            raise ValueError(f"bytes_per_s {self.bytes_per_s} lets nothing pass; use fault='stall' for that")
        re.compile(self.path)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Return the rule of such fields.

        Raises:
            ValueError, TypeError: they are no rule.
        """
        return cls(**fields | {"methods": tuple(fields.get("methods", ()))})

    def matches(self, method: str, target: str) -> bool:
        """Say whether a request is of the kind that this rule strikes."""
        return (not self.methods or method in self.methods) and re.search(self.path, target) is not None


def slow_down(**more: Any) -> Rule:
    """Return the rule that answers 503 SlowDown."""
    return Rule(fault="status", **more)
