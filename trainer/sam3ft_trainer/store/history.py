"""What a commit log says, as pure functions of its entries."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from sam3ft_api.errors import CheckpointIncompatible
from sam3ft_trainer.store.records import (
    ENTRY_ADAPTER,
    GENESIS,
    ClaimEntry,
    CommitEntry,
    Entry,
    FinalEntry,
    RetireEntry,
)


class DamagedHistory(CheckpointIncompatible):
    """The log has gaps, a changed entry, or no usable commit where there were some: never a reason to start afresh."""


@dataclass(frozen=True, slots=True)
class History:
    """All entries of a log in order, from the first to the newest.

    Attributes:
        entries: `entries[i].seq == i + 1`.
        head_sha256: hash of the newest entry's bytes, `GENESIS` for an empty log.
    """

    entries: tuple[Entry, ...] = ()
    head_sha256: str = GENESIS

    @property
    def head_seq(self) -> int:
        """Sequence number of the newest entry, 0 for an empty log."""
        return len(self.entries)

    @property
    def claims(self) -> list[ClaimEntry]:
        """All claims, oldest first."""
        return [entry for entry in self.entries if isinstance(entry, ClaimEntry)]

    @property
    def generation(self) -> int:
        """Generation of the newest claim, 0 without one."""
        return self.claims[-1].gen if self.claims else 0

    @property
    def commits(self) -> list[CommitEntry]:
        """Every commit that was ever made, oldest first."""
        return [entry for entry in self.entries if isinstance(entry, CommitEntry)]

    @property
    def finals(self) -> list[FinalEntry]:
        """Exports and ends, oldest first."""
        return [entry for entry in self.entries if isinstance(entry, FinalEntry)]

    @property
    def fresh_seq(self) -> int:
        """Sequence number of the newest claim that started over; commits before it are not resumed from."""
        return max((claim.seq for claim in self.claims if claim.fresh), default=0)

    def retired(self) -> dict[int, RetireEntry]:
        """Return the entry that retired each retired commit, by the commit's sequence number."""
        return {seq: entry for entry in self.entries if isinstance(entry, RetireEntry) for seq in entry.seqs}

    def live_commits(self) -> list[CommitEntry]:
        """Return the commits that were not retired, oldest first, those before a new start included."""
        retired = self.retired()
        return [commit for commit in self.commits if commit.seq not in retired]

    def usable_commits(self) -> list[CommitEntry]:
        """Return the commits a restore may use, newest first."""
        return [commit for commit in reversed(self.live_commits()) if commit.seq > self.fresh_seq]

    def had_commits(self) -> bool:
        """Return whether there was a commit since the newest start, retired or not."""
        return any(commit.seq > self.fresh_seq for commit in self.commits)

    def extended(self, stored: Sequence[bytes], *, address: str) -> "History":
        """Return this history with further entries, read as bytes in order of their numbers.

        Raises:
            DamagedHistory: an entry is torn, of an unknown version, misnumbered, or does not follow the one before.
        """
        entries, head = list(self.entries), self.head_sha256
        for data in stored:
            entry = parse_entry(data, seq=len(entries) + 1, address=address)
            if entry.prev_sha256 != head:
                raise DamagedHistory(
                    f"{address}: log entry {entry_key(entry.seq)} does not follow the entry before it: one of the two "
                    "was replaced. Restore the log from a copy, or use another checkpoint prefix"
                )
            entries.append(entry)
            head = hashlib.sha256(data).hexdigest()
        return History(tuple(entries), head)


def entry_key(seq: int) -> str:
    """Return the key of a log entry."""
    return f"log/{seq:08d}.json"


def parse_entry(data: bytes, *, seq: int, address: str) -> Entry:
    """Return the entry that must have number `seq`.

    Raises:
        DamagedHistory: it cannot be read, or carries another number.
    """
    try:
        entry = ENTRY_ADAPTER.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise DamagedHistory(
            f"{address}: log entry {entry_key(seq)} ({len(data)} bytes) cannot be read: {first['msg']} at "
            f"{'.'.join(map(str, first['loc'])) or 'its start'}. It was damaged, or written by another version of "
            "sam3ft; restore it from a copy, or use another checkpoint prefix"
        ) from error
    if entry.seq != seq:
        raise DamagedHistory(f"{address}: log entry {entry_key(seq)} says that it is number {entry.seq}; it was moved")
    return entry
