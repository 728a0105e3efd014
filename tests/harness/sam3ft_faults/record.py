"""Figures of long test runs, appended to a table in a Markdown file: what, with which seeds, how often, when, where."""

import datetime as dt
import fcntl
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HEADING = "## Reliability, from soak"
TABLE = ("| date | figure | seeds | counts | machine |", "|---|---|---|---|---|")
ENV_FILE = "SAM3FT_FIGURES_FILE"
"""Names the file; without it the caller's default is used."""


@dataclass(slots=True)
class Figures:
    """Sums of one long run by figure; written once, at its end.

    Attributes:
        file: Markdown; the table is made below `HEADING` where it is missing.
    """

    file: Path
    _counts: dict[str, dict[str, float]] = field(default_factory=dict)
    _seeds: dict[str, list[str]] = field(default_factory=dict)

    def add(self, figure: str, *, seed: object, **counts: float) -> None:
        """Add the counts of one case to a figure; names with underscores are written with spaces.

        A count that is a float, such as seconds, is written to a tenth.
        """
        sums = self._counts.setdefault(figure, {})
        for name, count in {"cases": 1, **counts}.items():
            sums[name] = sums.get(name, 0) + count
        self._seeds.setdefault(figure, []).append(str(seed))

    def write(self, *, now: dt.datetime, machine: str) -> list[str]:
        """Append one row for each figure and return the rows; without figures nothing is touched."""
        rows = [
            f"| {now:%Y-%m-%d %H:%M} | {figure} | {_seeds(self._seeds[figure])} | {_words(counts)} | {machine} |"
            for figure, counts in self._counts.items()
        ]
        if rows:
            append_rows(self.file, rows)
        return rows


def parts_between(since_s: float, marks: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds that end at each mark, from the mark before or from `since_s`; they add up to the whole.

    Args:
        since_s: when it began.
        marks: when each part ended, in order, by the same clock.
    """
    parts = {}
    for part, at_s in marks.items():
        parts[part], since_s = at_s - since_s, at_s
    return parts


def append_rows(file: Path, rows: list[str]) -> None:
    """Put rows behind the last one of the table, the rest of the file unchanged; one process at a time."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        if HEADING not in lines:
            lines += ["", HEADING, "", *TABLE]
        at = lines.index(HEADING) + 1
        while at < len(lines) and not lines[at].startswith("|"):
            at += 1
        while at < len(lines) and lines[at].startswith("|"):
            at += 1
        part = file.with_suffix(".part")
        part.write_text("\n".join([*lines[:at], *rows, *lines[at:]]).lstrip("\n") + "\n", encoding="utf-8")
        part.replace(file)
    file.with_suffix(".lock").unlink(missing_ok=True)


def this_machine() -> str:
    """Return cores, processor and memory in a few words, without the machine's name."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores ({_processor()}), {memory:.0f} GiB"


def figures_file(default: Path, environ: Mapping[str, str]) -> Path:
    """Return the file that `SAM3FT_FIGURES_FILE` names, else the default."""
    return Path(environ.get(ENV_FILE) or default)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _seeds(seeds: list[str]) -> str:
    return seeds[0] if len(seeds) == 1 else f"{seeds[0]} .. {seeds[-1]}"


def _words(counts: Mapping[str, float]) -> str:
    return ", ".join(
        f"{count:{',.1f' if isinstance(count, float) else ','}} {name.replace('_', ' ')}"
        for name, count in counts.items()
    )
