"""How one pod of the workers ended, and what follows: the table of exit codes, and what Kubernetes adds to it."""

import re
from dataclasses import dataclass
from enum import Enum

from sam3ft_api.exit_codes import EXIT_RULES, ExitCode, rule_for
from sam3ft_api.messages import Verdict
from sam3ft_api.status import FirstFailure
from sam3ft_api.worker import step_or_none
from sam3ft_operator.decide.words import cut, rank_or_none, shell_code
from sam3ft_operator.observed import PodView

OUT_OF_HOST_MEMORY = "HostOutOfMemory"
BUDGET_SPENT_INSIDE = frozenset({ExitCode.INTERNAL_ERROR, ExitCode.HUNG})
"""Codes that a launcher leaves as its last word when it has spent its own restarts."""
_CODE_IN_MESSAGE = re.compile(r"exit code (\d{1,3})\b")


class Weight(Enum):
    """What an end means for the run."""

    FREE = "free"
    """Made again without being counted: interrupted, fenced, its node gone, the store silent."""
    COUNTED = "counted"
    """Made again and counted against `failurePolicy.maxRestarts`."""
    VERDICT = "verdict"
    """Ends the run."""


@dataclass(frozen=True, slots=True)
class PodEnd:
    """The end of one pod.

    Attributes:
        code: exit code as a shell sees it.
        reason: CamelCase word.
        message: what it said, or what is known about it; with what to do.
        weight: what follows.
        at_s: when, seconds since the epoch.
        failure: for the ledger: rank, node, message.
        step: last finished step that it knew; None without a last word.
        commit_step: newest commit that it knew; None without one.
        index: of the pod in its Job; None where no pod ended.
    """

    code: int
    reason: str
    message: str
    weight: Weight
    at_s: float
    failure: FirstFailure
    step: int | None = None
    commit_step: int | None = None
    index: int | None = None


def end_of(pod: PodView) -> PodEnd | None:
    """Return how a pod ended; None while it has not, or when it ended well."""
    if pod.phase != "Failed":
        return None
    word = pod.termination
    seen = word.code if word is not None else pod.exit_code
    code = shell_code(seen) if seen is not None else int(ExitCode.TERMINATED)
    weight, reason = _judge(pod, code)
    rule = rule_for(code)
    said = word.message if word is not None and word.message else ""
    message = cut(said or _known(pod, code), 1024)
    if rule.advice not in message:
        message = f"{message} {rule.advice}" if message else rule.advice
    if reason == OUT_OF_HOST_MEMORY:
        message = f"{cut(message, 800).rstrip('. ')}; raise workers.resources.memory."
    detail = cut(word.traceback, 3000) if word is not None else ""
    failure = FirstFailure(
        rank=rank_or_none(word.rank) if word is not None else None,
        node=cut((word.node if word is not None else "") or pod.node, 253),
        message=cut(f"{message}\n{detail}" if detail else message, 4096),
    )
    return PodEnd(
        code=code,
        reason=reason,
        message=message,
        weight=weight,
        at_s=next(time_s for time_s in (pod.finished_s, pod.deletion_s, pod.created_s) if time_s is not None),
        failure=failure,
        step=step_or_none(word.step) if word is not None else None,
        commit_step=step_or_none(word.checkpoint_step) if word is not None else None,
        index=pod.index,
    )


def end_of_job(reason: str, message: str, *, at_s: float) -> PodEnd | None:
    """Return the verdict that a Job's failure speaks of when no pod is left to ask; None when it speaks of none."""
    found = _CODE_IN_MESSAGE.search(message) if reason == "PodFailurePolicy" else None
    code = int(found[1]) if found else 0
    rule = rule_for(code)
    if not rule.is_verdict:
        return None
    text = cut(f"{message}. {rule.advice}", 1024)
    return PodEnd(code, rule.reason, text, Weight.VERDICT, at_s, FirstFailure(message=text))


def end_of_group(told: Verdict, *, at_s: float) -> PodEnd:
    """Return what ended every member, as a coordinator tells it.

    Members also end together when the store stayed away beyond the budget of their launchers (22): that ends the
    attempt and not the run.
    """
    code = shell_code(told.code)
    rule = rule_for(code)
    weight = Weight.VERDICT if rule.is_verdict or code in BUDGET_SPENT_INSIDE else Weight.FREE
    text = cut(f"{told.message} {rule.advice}" if told.message else rule.advice, 1024)
    failure = FirstFailure(rank=rank_or_none(told.rank), node=cut(told.node, 253), message=text)
    return PodEnd(code, rule.reason, text, weight, at_s, failure, step=step_or_none(told.step))


def _judge(pod: PodView, code: int) -> tuple[Weight, str]:
    rule, has_word = rule_for(code), pod.termination is not None
    if rule.is_verdict and (has_word or not pod.is_disrupted):
        return Weight.VERDICT, rule.reason
    is_oom = pod.reason == "OOMKilled"
    was_asked_to_go = pod.is_disrupted or pod.is_node_lost or pod.deletion_s is not None
    if has_word and code in BUDGET_SPENT_INSIDE and not was_asked_to_go:
        return Weight.VERDICT, OUT_OF_HOST_MEMORY if is_oom else rule.reason
    if has_word and not rule.counts:
        # Its own word comes first: a container is called OOMKilled also when a child was killed long before its end.
        return Weight.FREE, rule.reason
    if is_oom:
        # The container's reason, because a killed child leaves its parent to end with 1.
        return Weight.COUNTED, OUT_OF_HOST_MEMORY
    if pod.is_disrupted or pod.is_node_lost:
        return Weight.FREE, EXIT_RULES[ExitCode.INTERRUPTED].reason
    # Some evictions set no condition (forced expiry of nodes): an end by SIGTERM is nobody's fault, as the table says.
    return (Weight.COUNTED if rule.counts else Weight.FREE), rule.reason


def _known(pod: PodView, code: int) -> str:
    where = f" on node {pod.node}" if pod.node else ""
    if pod.reason == "OOMKilled":
        return f"Pod {pod.name}{where} was killed for lack of host memory."
    return f"Pod {pod.name}{where} ended with {code} ({pod.reason or rule_for(code).reason}) and left no last word."
