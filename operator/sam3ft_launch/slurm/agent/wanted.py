"""What a resource asks of its site's agent; pure.

The operator opens attempts and closes them; the agent has the open one run, or end, and says what has become of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from sam3ft_api.spec import SAM3FineTuneSpec
from sam3ft_api.status import SAM3FineTuneStatus, readable_status


class Wish(StrEnum):
    """What is to become of the open attempt."""

    NOTHING = "nothing"
    """No attempt is open: there is nothing to do, nor to tell."""
    RUN = "run"
    STOP = "stop"
    """Save, and end within the run's grace."""
    END = "end"
    """End now: the resource is deleted."""


@dataclass(frozen=True, slots=True)
class SiteRun:
    """A resource of this site.

    Attributes:
        namespace: where it is.
        name: of the resource.
        uid: identity of the resource.
        spec: validated; None when it cannot be.
        content: the spec as it was read.
        status: as last written.
        is_deleted: a deletion has been asked for.
    """

    namespace: str
    name: str
    uid: str
    spec: SAM3FineTuneSpec | None
    content: Mapping[str, Any]
    status: SAM3FineTuneStatus
    is_deleted: bool

    @property
    def attempt(self) -> int:
        """Number of the open attempt; 0 without one."""
        newest = self.status.attempts[-1] if self.status.attempts else None
        return newest.n if newest is not None and newest.finished is None else 0


def site_run(body: Mapping[str, Any], *, site: str) -> SiteRun | None:
    """Return a resource as the agent sees it; None for one of another backend or site."""
    metadata, content = body.get("metadata") or {}, body.get("spec") or {}
    place = content.get("slurm") or {}
    if content.get("backend") != "slurm" or place.get("site") != site:
        return None
    try:
        spec = SAM3FineTuneSpec.model_validate(content)
    except (ValidationError, RecursionError):
        spec = None
    return SiteRun(
        namespace=str(metadata.get("namespace") or ""),
        name=str(metadata.get("name") or ""),
        uid=str(metadata.get("uid") or ""),
        spec=spec,
        content=content,
        status=readable_status(body.get("status")),
        is_deleted=metadata.get("deletionTimestamp") is not None,
    )


def wish_of(run: SiteRun, *, now_s: float) -> Wish:
    """Return what the resource asks for now.

    Args:
        run: as it was read.
        now_s: seconds since the epoch, by the API server's clock.
    """
    if not run.attempt:
        return Wish.NOTHING
    if run.is_deleted:
        return Wish.END
    phase, spec = run.status.phase, run.spec
    if (phase is not None and phase.is_final) or _is_suspended(run):
        return Wish.STOP
    if spec is None:
        return Wish.RUN  # a newer field than this agent knows ends no job; a new one is refused with words
    limit_s, begun = spec.active_deadline_seconds, run.status.started
    if limit_s is not None and begun is not None and now_s >= begun.timestamp() + limit_s:
        return Wish.STOP
    return Wish.RUN


def _is_suspended(run: SiteRun) -> bool:
    return run.spec.suspend if run.spec is not None else run.content.get("suspend") is True
