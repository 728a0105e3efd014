"""What processes use, from /proc: CPU seconds and memory. Linux only."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
IDLE_FIELDS = (3, 4)
"""Of the first line of /proc/stat: idle, and waiting for a disk."""


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used, all its threads together."""
    # The name in parentheses may hold spaces and parentheses of its own; what counts begins behind the last one.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mib(pid: int, *, peak: bool = False) -> float:
    """Return the memory of a process that is in RAM, or the most that ever was."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _machine_s() -> tuple[float, float]:
    """Return the busy and the possible seconds of all cores since the machine's start."""
    # The last two fields (guests) are counted in the first two already.
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = sum(ticks[field] for field in IDLE_FIELDS)
    return (sum(ticks) - idle) / TICKS_PER_S, sum(ticks) / TICKS_PER_S


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between two moments.

    Attributes:
        seconds: by the clock.
        cpu_s: CPU seconds by the process's name.
        machine_busy: share of all cores' time in which they worked, for anybody.
        other_cores: cores that programs kept busy which are not among these.
    """

    seconds: float
    cpu_s: dict[str, float]
    machine_busy: float
    other_cores: float

    def cores(self) -> dict[str, float]:
        """Return how many cores each process kept busy, the busiest first."""
        found = {name: used / self.seconds for name, used in self.cpu_s.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class Meter:
    """Counts from the moment it is made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        """Begin to count for processes by name."""
        self._pids = dict(pids)
        self._begun_s, self._machine, self._cpu_s = time.monotonic(), _machine_s(), self._read()

    def read(self) -> Usage:
        """Return what was used since the beginning."""
        busy_s, all_s = (now - before for now, before in zip(_machine_s(), self._machine, strict=True))
        used = {name: now - self._cpu_s[name] for name, now in self._read().items()}
        seconds = time.monotonic() - self._begun_s
        others = max(0.0, busy_s - sum(used.values())) / seconds
        return Usage(seconds, used, busy_s / max(all_s, 1e-9), others)

    def _read(self) -> dict[str, float]:
        return {name: cpu_s(pid) for name, pid in self._pids.items()}
