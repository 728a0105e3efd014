"""Texts that are kept in pieces, each beginning where the last one ends; pure."""

from collections.abc import Iterable


def chain(spans: Iterable[tuple[int, int]], *, start: int = 0) -> list[tuple[int, int]]:
    """Return the pieces from a byte on, as begin and end: of several that begin alike the longest, up to the first gap.

    Args:
        spans: begin and end of the pieces that there are, in any order; one without a byte counts for nothing.
        start: byte at which the first piece begins.
    """
    ends: dict[int, int] = {}
    for begin, end in spans:
        ends[begin] = max(end, ends.get(begin, 0))
    found = []
    while (end := ends.get(start, 0)) > start:
        found.append((start, end))
        start = end
    return found
