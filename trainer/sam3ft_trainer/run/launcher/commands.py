"""What the conductor asks of the launcher's other parts; plain data."""

from dataclasses import dataclass, field

from sam3ft_api.exit_codes import rule_for
from sam3ft_api.messages import LauncherMessage, Round
from sam3ft_api.termination import Termination
from sam3ft_api.worker import Flag


@dataclass(frozen=True, slots=True)
class Standing:
    """What the coordinator should know of this node now; told again after every reconnection.

    Attributes:
        round: the running round; None when no worker runs.
        message: what follows a hello: ready, down, done, leave or verdict; None when there is nothing to say.
        past_round: newest round that this node took part in, 0 before any.
    """

    round: Round | None = None
    message: LauncherMessage | None = None
    past_round: int = 0


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the coordinator."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class StartWorkers:
    """Start the workers of a round; no flag is raised then.

    Attributes:
        round: their places.
        micro_batch_max: bound of images per forward pass; None without one.
    """

    round: Round
    micro_batch_max: int | None


@dataclass(frozen=True, slots=True)
class StopWorkers:
    """End the workers now: SIGTERM and soon SIGKILL; with `force` SIGKILL at once."""

    force: bool = False


@dataclass(frozen=True, slots=True)
class RaiseFlag:
    """Put a request in front of the workers."""

    flag: Flag


@dataclass(frozen=True, slots=True)
class Say:
    """Print one line for people."""

    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the launcher ends; see `Termination` for the attributes."""

    code: int
    message: str = ""
    node: str = ""
    rank: int | None = None
    traceback: str = ""
    step: int = 0
    checkpoint_step: int | None = None
    restarts: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def termination(self) -> Termination:
        """Return the last word to be written."""
        return Termination(
            code=self.code,
            reason=rule_for(self.code).reason,
            message=self.message,
            node=self.node,
            rank=self.rank,
            traceback=self.traceback,
            step=self.step,
            checkpoint_step=self.checkpoint_step,
            restarts=self.restarts,
            metrics=self.metrics,
        )


@dataclass(frozen=True, slots=True)
class Exit:
    """No worker runs: end with this outcome."""

    outcome: Outcome


Command = Tell | StartWorkers | StopWorkers | RaiseFlag | Say | Exit
