"""Fault plans as text, and what they may say.

    PHASE[@BYTE]:RANK:STEP:SIGNAL[,...]        backward:1:3:KILL,upload@4096:0:6:raise,data:*:9:sleep=2

RANK is the global rank, `*` each one. STEP counts from 0 where a step is computed, and is the number of finished steps
where a state is saved, restored, scored or exported. A plan with a step strikes once (each rank that it names) in the
life of its record folder, whatever is restarted; `6+` strikes once, at step 6 or the first one after it that comes
along, `?` once at any step, `*` every time.
"""

import re
from dataclasses import dataclass
from typing import Self

PHASES = (
    "before_forward",
    "backward",
    "all_reduce",
    "optimizer",
    "data",
    "stage",
    "upload",
    "before_commit",
    "after_commit",
    "restore",
    "evaluate",
    "export",
)
"""Moments of a rank's life; where exactly stands in `seams.SEAMS`."""
SIGNALS = ("TERM", "KILL", "STOP", "INT")
"""Sent by the process to itself."""
ACTIONS = (*SIGNALS, "raise", "oom", "nan", "sleep")
NAN_PHASES = frozenset({"before_forward", "backward", "all_reduce"})
"""Where there are numbers to spoil that every rank sees: pixels, a gradient, a bucket of gradients."""
_PLAN = re.compile(r"(?P<phase>[a-z_]+)(@(?P<byte>\d+))?:(?P<rank>\d+|\*):(?P<step>\d+\+?|\?|\*):(?P<action>.+)")


class FaultPlanError(ValueError):
    """A plan that cannot be carried out, with what is allowed."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One fault.

    Attributes:
        phase: one of `PHASES`.
        rank: global rank, None for any.
        step: None for any; see the module.
        or_later: the first later step will do.
        repeats: strikes every time.
        action: one of `ACTIONS`.
        seconds: of `sleep`.
        at_byte: of the rank's uploads of one save, for `upload`.
    """

    phase: str
    rank: int | None
    step: int | None
    action: str
    seconds: float = 0.0
    at_byte: int = 0
    or_later: bool = False
    repeats: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the plan that a text describes.

        Raises:
            FaultPlanError: it describes none.
        """
        found = _PLAN.fullmatch(text.strip())
        if found is None:
            raise FaultPlanError(f"fault plan {text!r} is not PHASE[@BYTE]:RANK:STEP:SIGNAL")
        action, _, seconds = found["action"].partition("=")
        plan = cls(
            phase=found["phase"],
            rank=_number(found["rank"]),
            step=_number(found["step"].removesuffix("+")),
            action=action,
            seconds=_seconds(text, seconds) if action == "sleep" else 0.0,
            at_byte=int(found["byte"] or 0),
            or_later=found["step"].endswith("+"),
            repeats=found["step"] == "*",
        )
        plan._check(text, has_value=bool(seconds), has_byte=found["byte"] is not None)
        return plan

    def _check(self, text: str, *, has_value: bool, has_byte: bool) -> None:
        if self.phase not in PHASES:
            raise FaultPlanError(f"fault plan {text!r}: phase {self.phase!r} is unknown; allowed are {_list(PHASES)}")
        if self.action not in ACTIONS or (has_value and self.action != "sleep"):
            raise FaultPlanError(
                f"fault plan {text!r}: signal {self.action!r} is unknown; allowed are {_list(ACTIONS)} (sleep=SECONDS)"
            )
        if self.action == "nan" and self.phase not in NAN_PHASES:
            raise FaultPlanError(f"fault plan {text!r}: nan is possible in {_list(sorted(NAN_PHASES))}")
        if has_byte and self.phase != "upload":
            raise FaultPlanError(f"fault plan {text!r}: @BYTE belongs to upload")

    def is_for(self, phase: str, *, rank: int, step: int) -> bool:
        """Say whether the plan means this moment."""
        is_step = self.step in {None, step} or (self.or_later and self.step is not None and step >= self.step)
        return self.phase == phase and self.rank in {None, rank} and is_step


def parse_plans(text: str) -> tuple[FaultPlan, ...]:
    """Return the plans of a comma-separated list, at least one.

    Raises:
        FaultPlanError: one of them is none, or there is none.
    """
    plans = tuple(FaultPlan.parse(part) for part in text.split(",") if part.strip())
    if not plans:
        raise FaultPlanError("the fault plan is empty; leave the variable out to have no faults")
    return plans


def _number(text: str) -> int | None:
    return None if text in {"*", "?"} else int(text)


def _seconds(text: str, seconds: str) -> float:
    try:
        return float(seconds)
    except ValueError as error:
        raise FaultPlanError(f"fault plan {text!r}: sleep needs seconds, as sleep=2.5") from error


def _list(names: "tuple[str, ...] | list[str]") -> str:
    return ", ".join(names)
