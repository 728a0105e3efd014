"""What happens to a group, in words that can be counted; every set of words is closed, so that no series grows."""

from dataclasses import dataclass
from enum import StrEnum


class RoundCause(StrEnum):
    """Why a round began."""

    FIRST = "first"
    JOIN = "join"
    """The members had saved, to let a node in."""
    LOST = "lost"
    """The connection of a member had ended, nothing was heard of it, or another launcher took its place."""
    LEFT = "left"
    """A member had said that it goes."""
    FAILED = "failed"
    """The workers of a member had ended."""
    OTHER = "other"
    """This process did not see the round before."""


class Departure(StrEnum):
    """How a node that was connected went."""

    CLOSED = "closed"
    """Its connection ended without a word."""
    SILENT = "silent"
    LEFT = "left"
    REPLACED = "replaced"
    """Another launcher has its slot."""
    UNEXPECTED = "unexpected"
    """It sent what no launcher sends, and was cut off."""


class Refusal(StrEnum):
    """Why a connection got no further."""

    TOKEN = "token"  # noqa: S105 - a word of the metrics, not a secret
    ATTEMPT = "attempt"
    VERSION = "version"
    GREETING = "greeting"
    """Its first message was no hello."""
    SLOT = "slot"
    """Its name and slot clash with another node's."""
    MALFORMED = "malformed"
    """It sent what is no message, before or after it was admitted."""
    SLOW = "slow"
    """It did not introduce itself in time."""
    CROWD = "crowd"
    """Too many had not introduced themselves, and it was the oldest of them."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A launcher was admitted; one that comes back over a new connection joins again."""


@dataclass(frozen=True, slots=True)
class Departed:
    """A node is not connected any more."""

    how: Departure


@dataclass(frozen=True, slots=True)
class Formed:
    """A round has begun.

    Attributes:
        cause: why.
        waited_s: seconds since the first of its members was ready while nobody ran.
    """

    cause: RoundCause
    waited_s: float


Event = Joined | Departed | Formed
"""What a `Note` may report to the counters."""
