"""What the coordinator shows of a run over HTTP; pure."""

from dataclasses import asdict
from typing import Any

from sam3ft_launch.coordinator.roster import NodeState
from sam3ft_launch.coordinator.rounds import Rounds

RUN_STATES = ("waiting", "running", "stopping", "complete", "failed")
"""What `run_state` may return."""


def run_state(rounds: Rounds) -> str:
    """Return one word: failed, complete, waiting, stopping or running."""
    if rounds.verdict is not None:
        return "failed"
    if rounds.complete:
        return "complete"
    if rounds.formation is not None and rounds.formation.stopping:
        return "stopping"
    is_running = any(node.state in (NodeState.RUNNING, NodeState.DONE) for node in rounds.nodes.values())
    return "running" if is_running else "waiting"


def progress_view(rounds: Rounds, *, now_s: float) -> dict[str, Any]:
    """Return the content of `/progress`: JSON values only, without secrets, bounded by the bounds of the messages.

    Args:
        rounds: the state.
        now_s: the clock that the state was driven with.
    """
    formation = rounds.formation
    return {
        "state": run_state(rounds),
        "attempt": rounds.settings.attempt,
        "round": formation.number if formation else 0,
        "members": list(formation.members) if formation else [],
        "nodes": [
            {
                "name": node.name,
                "slot": node.hello.slot,
                "processes": node.hello.processes,
                "state": node.state.value,
                "step": node.step,
                "restarts": node.restarts,
                "silent_s": round(max(0.0, now_s - node.seen_s), 3),
            }
            for node in sorted(rounds.nodes.values(), key=lambda node: node.hello.slot)
        ],
        "commit_step": rounds.commit_step,
        "progress": rounds.progress.model_dump(mode="json") if rounds.progress else None,
        "failures": [asdict(failure) for failure in rounds.failures],
        "verdict": rounds.verdict.model_dump(mode="json") if rounds.verdict else None,
    }
