"""Says at the end of all passes what has failed and where the time went: a log is often read from its end.

    python tools/test_summary.py REPORT.xml...

Reads JUnit reports as pytest writes them. The time is that of setup, call and teardown together, summed over processes.
"""

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

FILES = 12
"""So many files are listed by their time."""


def failures(cases: Iterable[ET.Element]) -> list[str]:
    """A line for each test that failed or could not be set up: its name, and the first line of why."""
    lines = []
    for case in cases:
        for outcome in (*case.findall("failure"), *case.findall("error")):
            why = (outcome.get("message") or "").strip().splitlines() or ["no message"]
            lines.append(f"FAILED {_file(case)}::{case.get('name')}: {why[0][:200]}")
    return lines


def seconds_by_file(cases: Iterable[ET.Element]) -> Counter[str]:
    """How long the tests of each file took, in seconds."""
    seconds: Counter[str] = Counter()
    for case in cases:
        seconds[_file(case)] += float(case.get("time", 0))  # type: ignore[assignment]  # a Counter sums any number
    return seconds


def _file(case: ET.Element) -> str:
    return case.get("file") or (case.get("classname") or "?").replace(".", "/") + ".py"


def main(reports: list[Path]) -> None:
    """Print the summary of the reports that are there: a pass that ended early leaves none."""
    missing = [report.name for report in reports if not report.exists()]
    trees = [ET.parse(report) for report in reports if report.exists()]  # noqa: S314  # our own pytest wrote them
    cases = [case for tree in trees for case in tree.iter("testcase")]
    seconds = seconds_by_file(cases)
    print(f"== {len(cases)} tests, {sum(seconds.values()):.0f} s of one process; the files that took most:")
    for file, took in seconds.most_common(FILES):
        print(f"{took:8.0f} s  {file}")
    for name in missing:
        print(f"FAILED {name}: the pass ended without a report")
    for line in failures(cases):
        print(line)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
