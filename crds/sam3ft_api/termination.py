"""The last word of a launcher or a check: a small JSON file that outlives its container, Kubernetes' message of it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sam3ft_api import limits
from sam3ft_api.status import DatasetStatus
from sam3ft_api.worker import Metrics, Sentence, Traceback


class Termination(BaseModel):
    """How one launcher, or the check before it, ended, and what failed first.

    Attributes:
        code: the launcher's exit code, as in `sam3ft_api.exit_codes`.
        reason: CamelCase word of the code.
        message: what happened and what to do, for people.
        node: node on which it happened, perhaps another one than the writer's.
        rank: global rank that failed first; None when no rank did.
        traceback: end of that rank's traceback; empty without one.
        step: last finished optimizer step.
        checkpoint_step: step of the newest commit known; None without one.
        restarts: starts of the workers beyond the first.
        metrics: last evaluation, by name.
        dataset: what a check found; None from a launcher, and from a check that refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    code: Annotated[int, Field(ge=0, le=255)]
    reason: str
    message: Sentence = ""
    node: str = ""
    rank: int | None = None
    traceback: Traceback = ""
    step: int = 0
    checkpoint_step: int | None = None
    restarts: int = 0
    metrics: Metrics = {}
    dataset: DatasetStatus | None = None

    def to_json(self, *, max_bytes: int = limits.MAX_TERMINATION_BYTES) -> str:
        """Return JSON of at most `max_bytes` bytes of UTF-8, still readable by `model_validate_json`.

        What does not fit goes in this order: the start of the traceback, the last metrics, the end of the message.
        Code, reason, rank, steps and the data set's figures always stay; they need less than 700 bytes plus the node's
        name.
        """
        word = self
        for shorten in (_shorter_traceback, _fewer_metrics, _shorter_message):
            while len(word.model_dump_json().encode()) > max_bytes and (cut := shorten(word)) != word:
                word = cut
        return word.model_dump_json()


def _shorter_traceback(word: Termination) -> Termination:
    kept = len(word.traceback) * 3 // 4
    return word.model_copy(update={"traceback": word.traceback[len(word.traceback) - kept :]})


def _fewer_metrics(word: Termination) -> Termination:
    kept = len(word.metrics) * 3 // 4
    return word.model_copy(update={"metrics": dict(list(word.metrics.items())[:kept])})


def _shorter_message(word: Termination) -> Termination:
    return word.model_copy(update={"message": word.message[: len(word.message) * 3 // 4]})
