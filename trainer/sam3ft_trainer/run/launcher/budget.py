"""How often workers are started again, and after which pause; pure."""

from collections import deque
from dataclasses import dataclass, field

from sam3ft_api.exit_codes import ExitCode, rule_for

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
_PAUSED = frozenset({ExitCode.STORAGE_UNAVAILABLE})
"""Codes that are not counted but deserve a pause: the cause is outside and needs time."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The run's failure policy.

    Attributes:
        max_restarts: counted restarts allowed within the window.
        window_s: length of the window, seconds.
        max_without_progress: ends of the workers in a row without a newer commit that end the run.
    """

    max_restarts: int = 10
    window_s: float = 3600.0
    max_without_progress: int = 5


@dataclass(slots=True)
class History:
    """What has been spent so far; times are of one monotonic clock."""

    budget: Budget
    _counted_s: deque[float] = field(default_factory=deque)
    _outages_s: deque[float] = field(default_factory=deque)
    _num_stuck: int = 0
    _commit_step: int | None = None
    _has_new_commit: bool = False

    def learn_commit(self, step: int | None) -> None:
        """Take note of a commit; a newer one than any before makes the count of fruitless re-formings begin again."""
        if step is not None and (self._commit_step is None or step > self._commit_step):
            self._commit_step = step
            self._num_stuck = 0
            self._has_new_commit = True

    def begin_anew(self) -> None:
        """Take note that a member has gone: what is left is another group, and the fault may have gone with it."""
        self._num_stuck = 0

    def spend(self, code: int, *, now_s: float) -> str | None:
        """Record that the workers ended with `code`, a retryable one; return why the run must end, None to go on.

        Counted codes (1, 24, kills) have one windowed budget and outages of the store (22) another of the same size;
        a lost peer (23), a regroup (26) and a plain SIGTERM are free. All of them count as a re-forming, but for a
        regroup at a newer commit: a node that joins there has none to its name, and all count alike.
        """
        spent = self._spent_by(code)
        if spent is not None:
            spent.append(now_s)
            while now_s - spent[0] > self.budget.window_s:
                spent.popleft()
            if len(spent) > self.budget.max_restarts:
                return (
                    f"{len(spent)} restarts within {self.budget.window_s:g} s, and failurePolicy.maxRestarts allows "
                    f"{self.budget.max_restarts}"
                )
        if code != ExitCode.REGROUP or not self._has_new_commit:
            self._num_stuck += 1
        self._has_new_commit = False
        if self._num_stuck >= self.budget.max_without_progress:
            return (
                f"{self._num_stuck} times in a row the workers ended without a newer commit, and "
                f"failurePolicy.maxWithoutProgress allows {self.budget.max_without_progress}"
            )
        return None

    @property
    def is_nearly_stuck(self) -> bool:
        """True when one more end without a newer commit ends the run."""
        return self._num_stuck + 1 >= self.budget.max_without_progress

    def pause_s(self, code: int) -> float:
        """Return how long to wait before the workers are started again: doubling while nothing is committed."""
        if self._spent_by(code) is None:
            return 0.0
        return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** max(0, self._num_stuck - 1)))

    def _spent_by(self, code: int) -> deque[float] | None:
        if code in _PAUSED:
            return self._outages_s
        return self._counted_s if rule_for(code).counts else None
