"""Outcomes and messages made of what the workers told; pure."""

from dataclasses import replace

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.messages import VERDICT_CODES, Done, Down, Ready, Round
from sam3ft_trainer.run.launcher.commands import Outcome
from sam3ft_trainer.run.launcher.ends import GroupEnd

_TELLS_NOTHING = frozenset({ExitCode.SUCCEEDED, ExitCode.INTERRUPTED})


def describe(end: GroupEnd) -> str:
    """Return one sentence about the end of a node's workers."""
    return end.first.describe() if end.first is not None else "the workers were stopped"


def outcome_of(code: int, end: GroupEnd | None, *, node: str, preface: str = "") -> Outcome:
    """Return the outcome with this code, explained by the newest end of the workers.

    Args:
        code: exit code of the launcher.
        end: newest end of the workers, None before any.
        node: name of this node.
        preface: begins the message; without it and without a failed rank the advice of the code is the message.
    """
    first = end.first if end is not None and code not in _TELLS_NOTHING else None
    message = preface if first is None else f"{preface}{first.describe()}"
    outcome = Outcome(
        int(code),
        message or rule_for(code).advice,
        node=node,
        rank=first.rank if first is not None else None,
        traceback=first.traceback if first is not None else "",
    )
    return with_facts(outcome, end)


def with_facts(outcome: Outcome, end: GroupEnd | None) -> Outcome:
    """Return the outcome with steps and metrics of the newest end."""
    if end is None:
        return outcome
    return replace(
        outcome, step=max(outcome.step, end.step), checkpoint_step=end.checkpoint_step, metrics=dict(end.metrics)
    )


def final_code(code: int, *, is_alone: bool) -> int:
    """Return the code to end with once a budget is spent: one that every member may end with, where there are others.

    A kill (137) keeps its name when this node is the whole run; whatever is no code of ours is an internal error.
    """
    if code in VERDICT_CODES or (code == ExitCode.KILLED and is_alone):
        return code
    return int(ExitCode.INTERNAL_ERROR)


def ready_message(end: GroupEnd | None, *, address: str, port: int, micro_batch_max: int | None) -> Ready:
    """Return `ready` with what ended the workers before."""
    first = end.first if end is not None else None
    return Ready(
        addr=address,
        port=port,
        micro_batch_max=micro_batch_max,
        code=first.code if first is not None else None,
        message=first.describe() if first is not None else "",
        rank=first.rank if first is not None else None,
        commit_step=end.checkpoint_step if end is not None else None,
    )


def down_message(end: GroupEnd, round_: Round | None) -> Down | None:
    """Return `down` for a failure of this node's own in a round; None when the workers were stopped from outside."""
    if end.first is None:
        return None
    return Down(
        round=round_.round if round_ is not None else 0,
        code=end.first.code,
        message=end.first.describe(),
        rank=end.first.rank,
        commit_step=end.checkpoint_step,
    )


def done_message(end: GroupEnd, *, has_rank_0: bool) -> Done:
    """Return `done`; rank 0 ends with 0 only after the final commit and the export are verified."""
    return Done(step=end.step, complete=has_rank_0, metrics=end.metrics)
