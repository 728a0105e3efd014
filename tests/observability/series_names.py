"""Names of series, and the metrics of docs/metrics.md that they belong to."""

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \|", re.MULTILINE)


@cache
def types() -> dict[str, str]:
    """Return the type of every documented metric by its name."""
    return {row["name"]: row["type"] for row in _ROW.finditer(PAGE.read_text())}


def documented_metrics() -> set[str]:
    return set(types())


def metric_of(series: str) -> str:
    """Return the metric of a series: a histogram's and a summary's series have a suffix."""
    for suffix in ("_bucket", "_sum", "_count"):
        if types().get(series.removesuffix(suffix)) in ("histogram", "summary"):
            return series.removesuffix(suffix)
    return series
