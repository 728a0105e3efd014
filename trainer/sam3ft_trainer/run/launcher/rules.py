"""Settings of a launcher's decisions, and the states they lead through."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.messages import Round
from sam3ft_trainer.run.launcher.budget import Budget


class State(StrEnum):
    """Where this node stands."""

    PAUSED = "paused"
    """No worker; `ready` is sent when the pause is over."""
    READY = "ready"
    RUNNING = "running"
    ENDING = "ending"
    """Workers have been told to end, or their siblings' ends are awaited."""
    DONE = "done"
    OVER = "over"
    """The outcome is known, and the coordinator's echo of a verdict awaited."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings of one launcher; times in seconds.

    Attributes:
        node: name of this node.
        processes: workers on it.
        budget: the failure policy.
        first_micro_batch: world size -> images per forward pass before any halving.
        micro_batch_max: bound that an earlier launcher of this run has found; None without one.
        min_nodes: so many others go on without this node when it has spent its restarts; None when it ends them all.
        eviction_grace_s: from the request to stop until the workers are killed.
        peer_lost_grace_s: how long the siblings of a worker that lost a peer may take to say what happened.
        saving_grace_s: how long the siblings of a worker that saved and ended may take.
        complete_grace_s: how long workers may take to end once the run is complete.
        echo_s: how long a verdict waits for the coordinator's answer.
        refused_s: how long the coordinator may refuse this launcher before it gives up.
    """

    node: str
    processes: int
    budget: Budget
    first_micro_batch: Callable[[int], int]
    micro_batch_max: int | None = None
    min_nodes: int | None = None
    eviction_grace_s: float = 110.0
    peer_lost_grace_s: float = 2.0
    saving_grace_s: float = 15.0
    complete_grace_s: float = 10.0
    echo_s: float = 3.0
    refused_s: float = 10.0

    def can_spare(self, code: int, round_: Round | None) -> bool:
        """Tell whether the others of a round may go on without this node, whose own doing an end was.

        Of a hang (24) all nodes are victims alike, so that none is spared for it.
        """
        others = len(round_.members) - 1 if round_ is not None else 0
        is_own = rule_for(code).counts and code != ExitCode.HUNG
        return is_own and self.min_nodes is not None and others >= self.min_nodes
