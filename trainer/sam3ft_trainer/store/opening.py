"""How the ranks of one round open a run together: rank 0 probes and claims, the others learn what it got."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.exchange import Exchange
from sam3ft_trainer.store.layout import MAX_FILE_BYTES
from sam3ft_trainer.store.log import ClaimRequest, CommitLog
from sam3ft_trainer.store.messages import error_named, name_of
from sam3ft_trainer.store.objects import Store, probe_fence, with_patience
from sam3ft_trainer.store.records import Owner, Record, RunFacts
from sam3ft_trainer.store.uri import open_store


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Limits that users need not know.

    Attributes:
        best_metric: the score by which `keep_best` keeps, `evaluation.metric`; higher is better.
        outage_s: how long an unanswered request is repeated before code 22, s.
        peer_timeout_s: how long a rank waits for the others in a save or restore, s.
        orphan_age_s: files that no entry refers to are left alone for this long, s.
        max_file_bytes: larger shares are split into several files.
        cache_dir: folder on this node that outlives a worker, for a copy of the newest commit; None keeps none.
        clock: seconds since the epoch.
        access: profile and credentials of the run; None as in `open_store`.
    """

    best_metric: str | None = None
    outage_s: float = 900.0
    peer_timeout_s: float = 1800.0
    orphan_age_s: float = 86_400.0
    max_file_bytes: int = MAX_FILE_BYTES
    cache_dir: Path | None = None
    clock: Callable[[], float] = time.time
    access: Access | None = None


class Claimed(Record):
    """What every rank must know about the claim, or why there is none.

    Attributes:
        generation: of the claim.
        nonce: of the claim; unique for ever.
        newest_step: step of the newest usable commit.
        error: class of the failure, empty on success.
        message: for people.
    """

    generation: int = 0
    nonce: str = ""
    newest_step: int | None = None
    error: str = ""
    message: str = ""


def open_claimed(
    config: CheckpointConfig,
    request: ClaimRequest,
    *,
    rank: int,
    exchange: Exchange,
    options: StoreOptions,
    store: Store | None = None,
) -> tuple[CommitLog, Claimed]:
    """Open the address and claim the run: rank 0 does, the others wait for it and open the address too.

    Returns:
        The log (with the claim on rank 0) and the claim.

    Raises:
        Whatever rank 0 met, on all ranks; PeerLost if it did not come.
    """
    if rank:
        claimed = Claimed.model_validate_json(exchange.get("claim", timeout_s=options.peer_timeout_s))
        if claimed.error:
            raise error_named(claimed.error, claimed.message)
        return CommitLog(_opened(config, store, options, create=False), outage_s=options.outage_s), claimed
    try:
        log = CommitLog(_opened(config, store, options, create=True), outage_s=options.outage_s, clock=options.clock)
        claimed = _claim(log, config, request, options)
    except Sam3ftError as error:
        exchange.put("claim", Claimed(error=name_of(error), message=str(error)).model_dump_json().encode())
        raise
    exchange.put("claim", claimed.model_dump_json().encode())
    return log, claimed


def claim_request(config: CheckpointConfig, identity: IdentityConfig, facts: RunFacts, world_size: int) -> ClaimRequest:
    """Return the request that config and identity make up."""
    owner = Owner(uid=identity.uid, name=identity.name)
    return ClaimRequest(owner, facts, resume=config.resume, adopt=config.adopt, world_size=world_size)


def _opened(config: CheckpointConfig, store: Store | None, options: StoreOptions, *, create: bool) -> Store:
    if store is not None:
        return store
    if config.uri is None:
        raise InvalidConfig("checkpoint.uri is not set; give a folder or a bucket for the checkpoints of this run")
    uri = config.uri
    return with_patience(lambda: open_store(uri, create=create, access=options.access), outage_s=options.outage_s)


def _claim(log: CommitLog, config: CheckpointConfig, request: ClaimRequest, options: StoreOptions) -> Claimed:
    with_patience(lambda: probe_fence(log.store, allow_unfenced=config.allow_unfenced), outage_s=options.outage_s)
    entry = log.claim(request)
    usable = log.history.usable_commits()
    return Claimed(generation=entry.gen, nonce=entry.nonce, newest_step=usable[0].meta.step if usable else None)
