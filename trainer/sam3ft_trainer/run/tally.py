"""What the loader left out, counted between two log lines and shown with the next one."""

from dataclasses import dataclass, field
from typing import Any

from sam3ft_trainer.data.pipeline import StepBatches


@dataclass(slots=True)
class Tally:
    """Sums over the steps of one rank since the last `take`.

    Attributes:
        quarantined: images that could not be read, with the reason and the hex SHA-256 of their files; each is told
            once in the life of a process.
        dropped_small: objects below the size filter.
        dropped_crowded: objects in pairs above the count filter.
        known_bad: ids that have been told.
        reading: the newest line on what reading from a store has cost; empty for folders.
    """

    quarantined: dict[int, tuple[str, str]] = field(default_factory=dict)
    dropped_small: int = 0
    dropped_crowded: int = 0
    known_bad: set[int] = field(default_factory=set)
    reading: str = ""

    def add(self, batches: StepBatches) -> None:
        """Count one step."""
        for (image_id, reason), sha256 in zip(batches.quarantined, batches.quarantined_sha256, strict=True):
            if image_id not in self.known_bad:
                self.known_bad.add(image_id)
                self.quarantined[image_id] = reason, sha256
        self.dropped_small += batches.dropped_small
        self.dropped_crowded += batches.dropped_crowded

    def take(self) -> dict[str, Any]:
        """Return the sums as JSON values and start again from zero."""
        sums = {
            "quarantined": [[image_id, *told] for image_id, told in self.quarantined.items()],
            "dropped_small": self.dropped_small,
            "dropped_crowded": self.dropped_crowded,
        }
        self.quarantined, self.dropped_small, self.dropped_crowded = {}, 0, 0
        return sums
