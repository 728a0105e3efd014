"""How launchers have ended, as it is kept beside a run."""

from pydantic import BaseModel, ConfigDict


class PastEnd(BaseModel):
    """One end of the launchers within an attempt, for `sam3ft status`.

    Attributes:
        code: exit status as a shell sees it.
        reason: CamelCase word for it.
        at_unix_s: when, seconds since the epoch.
        commit_step: step of the newest commit known then; None without one.
        node: on SLURM, the one node whose doing it was; empty when it was no node's, or that of several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int
    reason: str
    at_unix_s: float
    commit_step: int | None = None
    node: str = ""
