"""Answers to scrapes, in the text format or, for those that ask for it, OpenMetrics."""

import math

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from sam3ft_launch.coordinator.counts import Counts
from sam3ft_launch.coordinator.metrics import RunMetrics
from sam3ft_launch.coordinator.rank_lines import rank_lines, ranks_shown
from sam3ft_launch.coordinator.rounds import Rounds

KEPT_S = 1.0
"""A scrape within this of another gets the same answer."""
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_OPENMETRICS_END = b"# EOF\n"


class Exposition:
    """Answers scrapes, in the text format or, for those that ask for it, OpenMetrics."""

    def __init__(self, rounds: Rounds, counts: Counts) -> None:
        """Register the run and this process.

        Args:
            rounds: the state.
            counts: what has happened.
        """
        self._rounds = rounds
        self._registry = CollectorRegistry(auto_describe=False)
        self._run = RunMetrics(rounds, counts)
        self._registry.register(self._run)
        ProcessCollector(registry=self._registry)
        self._kept: dict[str, tuple[float, bytes]] = {}

    def answer(self, accepted: str, *, now_s: float) -> tuple[str, bytes]:
        """Return type and body; computed at most every `KEPT_S`, however many ask.

        Args:
            accepted: value of the header Accept.
            now_s: the clock that the state is driven with.
        """
        kind = OPENMETRICS_TYPE if "application/openmetrics-text" in accepted else TEXT_TYPE
        kept_s, body = self._kept.get(kind, (-math.inf, b""))
        if now_s - kept_s >= KEPT_S:
            self._run.now_s = now_s
            body = self._compute(kind)
            self._kept[kind] = (now_s, body)
        return kind, body

    def _compute(self, kind: str) -> bytes:
        lines = rank_lines(ranks_shown(self._rounds.progress)).encode()
        if kind == TEXT_TYPE:
            return generate_latest(self._registry) + lines
        opened: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return opened.removesuffix(_OPENMETRICS_END) + lines + _OPENMETRICS_END
