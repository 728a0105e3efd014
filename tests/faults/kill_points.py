"""The points of a save, a resume and a clean-up at which a process may be killed; drawn by number, so that a long
series can be broken off and gone on with."""

import itertools
import random
from dataclasses import dataclass
from typing import Any

GROUPS = ("model", "optimizer", "ema")


@dataclass(frozen=True, slots=True)
class KillPoint:
    """Where one process of a group is killed.

    Attributes:
        kind: of request, as `store_worker.Dying` names them; `stage` for the copy into host memory.
        when: before, during or after it.
        nth: which of them, from 0.
        world_size: processes.
        victim: rank that is killed.
        after_s: from the begin of the request to the kill, for `during`.
    """

    kind: str
    when: str
    nth: int
    world_size: int
    victim: int
    after_s: float

    @property
    def name(self) -> str:
        """The phase, as figures are counted by."""
        return f"{self.kind} {self.when}"

    def die(self) -> dict[str, Any]:
        """Return what the worker's job says."""
        return {"kind": self.kind, "when": self.when, "request": self.nth, "after_s": self.after_s}


def phases() -> list[tuple[str, str, bool]]:
    """Return every phase: kind, when, and whether rank 0 alone goes through it."""
    uploads = [(f"put:{group}", when, False) for group in GROUPS for when in ("before", "during", "after")]
    staging = [("stage", when, False) for when in ("before", "after")]
    alone = ("put:index", "head", "create:claim", "create:commit", "create:retire", "delete_prefix")
    settling = [(kind, when, True) for kind, when in itertools.product(alone, ("before", "after"))]
    reading = [("get_range", when, False) for when in ("before", "after")]
    return [*uploads, *staging, *settling, *reading]


def point(number: int, *, seed: int = 7) -> KillPoint:
    """Return the point of a number: phases in turn, everything else drawn."""
    draw = random.Random(f"{seed}-{number}")
    kind, when, is_rank_0s = phases()[number % len(phases())]
    world_size = draw.choice([1, 2, 2])
    victim = 0 if is_rank_0s else draw.randrange(world_size)
    nth = {"create:claim": 0, "get_range": draw.randrange(3), "create:retire": draw.randrange(2)}.get(kind)
    nth = draw.randrange(6) if nth is None else nth
    return KillPoint(kind, when, nth, world_size, victim, after_s=draw.uniform(0.01, 0.15))
