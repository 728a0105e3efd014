"""Carrying a plan out within the process that it means, and leaving word of it first."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sam3ft_faults.plans import SIGNALS, FaultPlan

PLAN_ERROR = 2
"""Exit code of a process whose plan cannot be carried out; no code of the trainer's."""


class InjectedFault(RuntimeError):
    """What `raise` raises."""


@dataclass(slots=True)
class Striker:
    """Knows the plans, who this process is, and what it is doing.

    Attributes:
        plans: in the order of the text.
        records: folder of the `fired` records.
        step: of the optimizer step under way, from 0.
        saving_step: of the newest save that was begun.
    """

    plans: Sequence[FaultPlan]
    records: Path
    step: int = -1
    saving_step: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rank(self) -> int:
        """Global rank of this process, 0 without a launcher."""
        return int(os.environ.get("RANK", "0"))

    def due(self, phase: str, step: int) -> Iterator[FaultPlan]:
        """Yield the plans for this moment that have not been carried out; each is recorded as fired when taken."""
        for number, plan in enumerate(self.plans):
            if plan.is_for(phase, rank=self.rank, step=step) and self._record(number, plan, step):
                yield plan

    def has(self, phase: str) -> bool:
        """Say whether any plan is about a phase."""
        return any(plan.phase == phase for plan in self.plans)

    def strike(self, phase: str, step: int) -> bool:
        """Carry out what is due; returns True when a `nan` is, which the seam itself has to put in place.

        Raises:
            InjectedFault, torch.OutOfMemoryError: the plan says so.
        """
        spoils = False
        for plan in self.due(phase, step):
            spoils |= carry_out(plan)  # every plan, not only up to the first that spoils
        return spoils

    def _record(self, number: int, plan: FaultPlan, step: int) -> bool:
        """Write the record, durable before anything happens; False when this plan has fired before."""
        self.records.mkdir(parents=True, exist_ok=True)
        once = f"-step{step}-{os.getpid()}-{time.monotonic_ns()}" if plan.repeats else ""
        path = self.records / f"fired-{number}-rank{self.rank}{once}.json"
        record = {"plan": number, "rank": self.rank, "step": step, "pid": os.getpid(), "time_unix_s": time.time()}
        try:
            with path.open("x") as file:
                json.dump(record | {"fault": asdict(plan)}, file)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
        return True


def carry_out(plan: FaultPlan) -> bool:
    """Do what the plan says, here and now; True for `nan`."""
    if plan.action in SIGNALS:
        os.kill(os.getpid(), signal.Signals[f"SIG{plan.action}"])
        time.sleep(0.05)  # the kernel delivers to any thread; a Python handler runs in the main one
    elif plan.action == "raise":
        raise InjectedFault(f"injected by the fault plan in {plan.phase}")
    elif plan.action == "oom":
        torch: Any = sys.modules["torch"]
        raise torch.OutOfMemoryError(f"CUDA out of memory. Injected by the fault plan in {plan.phase}")
    elif plan.action == "sleep":
        time.sleep(plan.seconds)
    return plan.action == "nan"


def fired(records: Path) -> list[dict[str, Any]]:
    """Return the records of a folder, by time: plan (its number), rank, step, pid, time_unix_s and the fault itself."""
    found = [json.loads(path.read_text()) for path in records.glob("fired-*.json")]
    return sorted(found, key=lambda record: record["time_unix_s"])
