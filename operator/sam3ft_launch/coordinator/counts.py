"""What has happened since the coordinator began; counters that only grow, whatever the launchers send."""

from collections import Counter

from sam3ft_api import limits
from sam3ft_api.worker import Progress
from sam3ft_launch.coordinator.events import Departed, Departure, Event, Formed, Joined, Refusal, RoundCause

BEFORE_TRAINING = frozenset({"checking", "loading"})
"""States of a trainer whose step is not yet that of the commit it goes on from."""


class Counts:
    """Counters of one process.

    Attributes:
        joins: launchers that were admitted.
        departures: nodes that went before the end of the run was known, by how.
        rounds: rounds that began, by cause.
        refused: connections that got no further, by reason.
        start_waits_s: seconds that all rounds together were waited for.
        steps: optimizer steps that were seen to be done, those that were done again included.
        commit_unix_s: when the newest commit was told, None until one is told whose making was watched.
    """

    def __init__(self) -> None:
        """Begin at zero, with every word that can be counted."""
        self.joins = 0
        self.departures: Counter[Departure] = Counter(dict.fromkeys(Departure, 0))
        self.rounds: Counter[RoundCause] = Counter(dict.fromkeys(RoundCause, 0))
        self.refused: Counter[Refusal] = Counter(dict.fromkeys(Refusal, 0))
        self.start_waits_s = 0.0
        self.steps = 0
        self.commit_unix_s: float | None = None
        self._newest_commit = -1
        self._first_step: int | None = None
        self._before: Progress | None = None

    def add(self, event: Event, *, is_over: bool) -> None:
        """Count an event.

        Args:
            event: what happened.
            is_over: the end of the run is known, so that launchers go because of it; that is no departure.
        """
        match event:
            case Joined():
                self.joins += 1
            case Departed() if not is_over:
                self.departures[event.how] += 1
            case Formed():
                self.rounds[event.cause] += 1
                self.start_waits_s += max(0.0, event.waited_s)

    def refuse(self, reason: Refusal) -> None:
        """Count a connection that got no further."""
        self.refused[reason] += 1

    def learn(self, progress: Progress, *, now_unix_s: float) -> None:
        """Take note of what rank 0 relayed; figures out of all bounds are passed over.

        Args:
            progress: the new one.
            now_unix_s: seconds since the epoch.
        """
        before, self._before = self._before, progress
        if progress.state in BEFORE_TRAINING or not 0 <= progress.step <= limits.MAX_STEP:
            return
        commit = progress.checkpoint_step if progress.checkpoint_step is not None else -1
        if self._first_step is None:
            self._first_step = progress.step
        if before is not None:
            goes_on = before.state not in BEFORE_TRAINING and 0 <= before.step <= progress.step
            self.steps += progress.step - (before.step if goes_on else min(max(commit, 0), progress.step))
        if self._newest_commit < commit <= limits.MAX_STEP:
            # A commit from before the first step that was seen is of an unknown age.
            if commit >= self._first_step:
                self.commit_unix_s = now_unix_s
            self._newest_commit = commit
