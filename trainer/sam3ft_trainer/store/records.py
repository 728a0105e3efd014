"""What stands in the commit log: four kinds of small JSON objects, chained by hash.

Every entry is written once and never changed. `seq` counts from 1 without gaps; `prev_sha256` is the hash of the
bytes of the entry before, so that a lost or replaced entry is noticed.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

GENESIS = "0" * 64
"""`prev_sha256` of the first entry."""


class Record(BaseModel):
    """A closed, frozen JSON object; non-finite floats are kept as strings so that they read back equal."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), ser_json_inf_nan="strings")


class Owner(Record):
    """Who runs: the uid decides, the name is for people."""

    uid: str
    name: str

    def __str__(self) -> str:
        """Return `'name' (uid ...)`."""
        return f"{self.name!r} (uid {self.uid})"


class RunFacts(Record):
    """What makes a history this run's and no other's.

    Attributes:
        task: detection or segmentation.
        numbers_digest: `TrainingConfig.numbers_digest()`.
        dataset_digest: of the training annotations.
        model_digest: of the initial weights.
        settings: the settings behind `numbers_digest`, so that a refusal can say which one differs; no secrets.
        versions: of the libraries that compute, for people.
        invocation: equal for all restarts of one start by the user. `resume: never` starts over once for each
            invocation; with an empty one it starts over at every claim.
        on_dataset_change: `data.on_change`: whether another dataset digest is refused at resume.
    """

    task: str
    numbers_digest: str
    dataset_digest: str
    model_digest: str
    settings: dict[str, JsonValue] = {}
    versions: dict[str, str] = {}
    invocation: str = ""
    on_dataset_change: Literal["refuse", "restartEpoch"] = "refuse"


class CommitMeta(Record):
    """The part of the state that is not tensors.

    Attributes:
        step: finished optimizer steps.
        epoch: passes over the data, with fraction.
        cursor: position in the data order, as the loop defines it.
        metrics: scores of exactly these weights; empty when they were not scored. Used by `keep_best`.
        extra: anything else the loop wants back: counters, best value so far, thread count, random states.
    """

    step: Annotated[int, Field(ge=0)]
    epoch: float = 0.0
    cursor: dict[str, JsonValue] = {}
    metrics: dict[str, float] = {}
    extra: dict[str, JsonValue] = {}


class FileRecord(Record):
    """One written file.

    Attributes:
        key: relative to the run's address.
        size: bytes.
        xxh3_128: hex hash of the content, computed before the upload from the memory that was uploaded.
        group: model, optimizer, ema and so on; `index` files hold no state.
    """

    key: str
    size: int
    xxh3_128: str
    group: str


class _Entry(Record):
    version: Literal[1] = 1
    seq: Annotated[int, Field(ge=1)]
    prev_sha256: str
    gen: Annotated[int, Field(ge=1)]
    nonce: str
    time_unix_s: float


class ClaimEntry(_Entry):
    """A process group takes the run over; every older generation is fenced from here on.

    Attributes:
        owner: who claims.
        facts: what it is going to compute.
        fresh: commits before this entry are not used any more.
        adopted: the identity check was waived by `checkpoint.adopt`.
        world_size: processes of the group.
    """

    kind: Literal["claim"] = "claim"
    owner: Owner
    facts: RunFacts
    fresh: bool
    adopted: bool
    world_size: int


class CommitEntry(_Entry):
    """A complete, durable state.

    Attributes:
        meta: step, position, metrics.
        prefix: where its files lie, used by no other entry.
        files: all files, with sizes and hashes.
        world_size: processes that wrote it.
        dataset_digest: of the annotations it was trained on.
    """

    kind: Literal["commit"] = "commit"
    meta: CommitMeta
    prefix: str
    files: tuple[FileRecord, ...]
    world_size: int
    dataset_digest: str


class RetireEntry(_Entry):
    """Commits that are never used again; after `retention` their files are deleted.

    Attributes:
        seqs: the retired commits.
        reason: `retention`, or `damaged` when a restore found a file missing or changed.
        detail: which file, for people.
    """

    kind: Literal["retire"] = "retire"
    seqs: tuple[int, ...]
    reason: Literal["retention", "damaged"]
    detail: str = ""


class ExportedFile(Record):
    """One file of an exported model.

    Attributes:
        name: relative to the export's address.
        size: bytes.
        sha256: hex hash of the content, as in the export's manifest.
    """

    name: str
    size: int
    sha256: str


class ExportRecord(Record):
    """A model that was handed over.

    Attributes:
        address: folder or bucket prefix.
        files: all of them, by name.
    """

    address: str
    files: tuple[ExportedFile, ...]


class FinalEntry(_Entry):
    """An export, or the end of the run.

    Attributes:
        what: `export` for a model that was handed over, `run` for the end.
        meta: step and metrics of the exported weights or of the end.
        export: what was handed over; None for the end.
    """

    kind: Literal["final"] = "final"
    what: Literal["export", "run"]
    meta: CommitMeta
    export: ExportRecord | None = None


Entry = ClaimEntry | CommitEntry | RetireEntry | FinalEntry
ENTRY_ADAPTER: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])
"""Reads any entry from JSON bytes."""


def differing_settings(there: dict[str, Any], here: dict[str, Any], *, limit: int = 5) -> list[str]:
    """Return lines `a.b: 1 there, 2 here` for settings that differ, at most `limit` and one that counts the rest."""
    flat_there, flat_here = _flatten(there), _flatten(here)
    absent = "nothing"
    lines = [
        f"{key}: {flat_there.get(key, absent)} there, {flat_here.get(key, absent)} here"
        for key in sorted(flat_there.keys() | flat_here.keys())
        if flat_there.get(key, absent) != flat_here.get(key, absent)
    ]
    return lines if len(lines) <= limit else [*lines[:limit], f"and {len(lines) - limit} more"]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: value}
    return {
        name: leaf
        for key, child in value.items()
        for name, leaf in _flatten(child, f"{prefix}.{key}" if prefix else str(key)).items()
    }
