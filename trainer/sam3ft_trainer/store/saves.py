"""What a save is made of: the job, its ticket, the events and totals it leaves, and where a rank stands."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sam3ft_trainer.store.layout import FilePlan
from sam3ft_trainer.store.messages import Outcome
from sam3ft_trainer.store.records import CommitMeta


@dataclass(frozen=True, slots=True)
class Job:
    """One save.

    Attributes:
        number: counts the calls of `save`, equal on all ranks.
        meta: the part of the state that is not tensors.
        plans: files of all ranks.
        prefix: where they go; never used before or after.
    """

    number: int
    meta: CommitMeta
    plans: tuple[FilePlan, ...]
    prefix: str

    def share_of(self, rank: int) -> list[FilePlan]:
        """Return the files that a rank writes."""
        return [plan for plan in self.plans if plan.rank == rank]


@dataclass(slots=True)
class SaveTicket:
    """A save under way.

    Attributes:
        meta: what is saved.
        outcome: how it ended, None until then.
    """

    meta: CommitMeta
    outcome: Outcome | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._ended.is_set()

    def wait(self) -> Outcome:
        """Block until the outcome is known, and return it."""
        self._ended.wait()
        assert self.outcome is not None  # noqa: S101 - set before the event; narrows the type
        return self.outcome

    def wait_at_most(self, timeout_s: float | None) -> Outcome | None:
        """Block until the outcome is known or the time has passed; None then."""
        return self.outcome if self._ended.wait(timeout_s) else None

    def end(self, outcome: Outcome) -> None:
        """Make the outcome known."""
        self.outcome = outcome
        self._ended.set()


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling, collected in the background and handed over by `RunStore.poll`.

    Attributes:
        name: save_skipped, checkpoint_committed, checkpoint_skipped, checkpoint_aborted, checkpoint_failed,
            checkpoints_retired, orphans_swept, cleanup_failed; copy_written, copy_skipped, copy_used, copy_damaged.
        fields: JSON values: step, seq, bytes, seconds, message and so on.
    """

    name: str
    fields: Mapping[str, Any]


class EventBox:
    """Events on their way from background threads to the loop."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._events: list[Event] = []

    def tell(self, name: str, **fields: Any) -> None:
        """Put an event in."""
        with self._lock:
            self._events.append(Event(name, fields))

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        with self._lock:
            events, self._events = self._events, []
        return events


@dataclass(slots=True)
class Counters:
    """Totals of this incarnation on this rank.

    Attributes:
        committed: saves that became commits.
        skipped: saves that came due while one was under way on some rank.
        aborted: saves that a silent peer prevented.
        uploaded_bytes: bytes of tensor files this rank has written.
        cleanup_failures: deletions that failed.
        staged_s: time the training stood still for copies, s.
    """

    committed: int = 0
    skipped: int = 0
    aborted: int = 0
    uploaded_bytes: int = 0
    cleanup_failures: int = 0
    staged_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands: what stays the same over all saves of an incarnation.

    Attributes:
        rank: of this process, 0 to world_size - 1.
        world_size: processes of the round.
        generation: of the claim.
        nonce: of the claim; begins every key in the exchange.
        dataset_digest: of the training annotations.
        outage_s: how long an unanswered request is repeated, s.
        peer_timeout_s: how long rank 0 waits for the others' receipts, s.
    """

    rank: int
    world_size: int
    generation: int
    nonce: str
    dataset_digest: str
    outage_s: float
    peer_timeout_s: float
