"""What the coordinator is told, and the time-outs it keeps."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers of one attempt; times are seconds of the coordinator's own monotonic clock.

    Attributes:
        nodes: nodes that the first round waits for.
        min_nodes: nodes that a round needs at least.
        max_nodes: nodes that a round takes at most; more wait as spares.
        attempt: number of the attempt; launchers of another one are refused.
        gate_deadline_s: from the first node that is ready until the first round starts with `min_nodes`.
        silence_s: a launcher that says nothing for this long is lost.
        overdue_s: a launcher that says nothing for this long has missed a heartbeat; when all have, this process may be
            the one that is cut off, and nobody is lost.
        settle_s: quiet time before a round starts, so that several nodes come in one round.
        last_call_s: from the first node that is ready until a later round starts without the others; also how long
            the remaining members of a round may take to save after one has left.
        adoption_s: after the coordinator's start, how long it waits for the members of a round that runs already.
        late_s: a loop that was held up for longer excuses everybody's silence.
        tick_s: time between two calls of `Rounds.tick`.
    """

    nodes: int = 1
    min_nodes: int = 1
    max_nodes: int = 1
    attempt: int = 1
    gate_deadline_s: float = 600.0
    silence_s: float = 3.0
    overdue_s: float = 1.5
    settle_s: float = 0.2
    last_call_s: float = 5.0
    adoption_s: float = 5.0
    late_s: float = 1.0
    tick_s: float = 0.05

    def __post_init__(self) -> None:
        """Check the order of the three counts.

        Raises:
            ValueError: unless 1 <= min_nodes <= nodes <= max_nodes.
        """
        if not 1 <= self.min_nodes <= self.nodes <= self.max_nodes:
            raise ValueError(
                f"min-nodes {self.min_nodes}, nodes {self.nodes}, max-nodes {self.max_nodes}: "
                "1 <= min-nodes <= nodes <= max-nodes is needed"
            )
