"""How long a save takes, from what earlier ones took."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_SMOOTHING = 0.5
_OVERDUE = 1.25
"""A save that has lasted longer than expected is expected to take this much of the time it has lasted."""


@dataclass(slots=True)
class SaveSpeed:
    """Measurements of one rank's saves.

    Attributes:
        upload_bytes_per_s: of this rank's uploads, smoothed; None before the first.
        stage_s: the last copy into the slab, s.
        settle_s: from the end of this rank's upload to the known outcome of the last save, s.
        earlier_save_s: a whole save as an earlier incarnation measured it, s; counts until there is a newer figure.
        last_save_s: the last whole save that was committed, copy included, s.
        clock: monotonic seconds.
    """

    upload_bytes_per_s: float | None = None
    stage_s: float = 0.0
    settle_s: float = 0.0
    earlier_save_s: float | None = None
    last_save_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    _begun_s: float | None = field(default=None)

    def begin(self, *, stage_s: float) -> None:
        """Note that a save begins, after its copy."""
        self.stage_s, self._begun_s = stage_s, self.clock()

    def uploaded(self, num_bytes: int, seconds: float) -> None:
        """Take in an upload."""
        if num_bytes and seconds > 0:
            rate, before = num_bytes / seconds, self.upload_bytes_per_s
            self.upload_bytes_per_s = rate if before is None else before + _SMOOTHING * (rate - before)

    def ended(self, *, settle_s: float, is_committed: bool) -> None:
        """Take in the end of the save that was begun."""
        self.settle_s = settle_s
        if is_committed and self._begun_s is not None:
            self.last_save_s = self.stage_s + self.clock() - self._begun_s
        self._begun_s = None

    def expected_s(self, share_bytes: int) -> float | None:
        """Return how long a save of so many bytes of this rank takes, with none before it; None if unknown."""
        if self.upload_bytes_per_s is None:
            return self.earlier_save_s
        return self.stage_s + share_bytes / self.upload_bytes_per_s + self.settle_s

    def rest_of_running_s(self, share_bytes: int) -> float:
        """Return how long the save under way will still take; 0 without one, or when nothing is known."""
        expected_s = self.expected_s(share_bytes)
        if self._begun_s is None or expected_s is None:
            return 0.0
        lasted_s = self.clock() - self._begun_s
        return max(expected_s, _OVERDUE * lasted_s) - lasted_s
