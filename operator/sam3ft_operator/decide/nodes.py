"""Nodes on which a run has failed again and again are avoided by its next attempts, unless no other is left."""

from sam3ft_api.status import AttemptStatus
from sam3ft_operator.decide.look import Look

EXCLUDE_AFTER = 2
"""Attempts of a run that failed on a node, counted, after which the next one avoids it."""
MOST_EXCLUDED = 16
"""Nodes that a run avoids at most: a run that fails on more of them is itself the cause."""
NO_NODE_LEFT = "NoNodeLeft"
"""Reason of an attempt that found no node beside those it avoided; from then on the run avoids none."""
PATIENCE_S = 600.0
"""Seconds that an attempt which avoids nodes may wait for the first of its pods to get one."""


def excluded_nodes(look: Look) -> tuple[str, ...]:
    """Return the nodes that the open attempt avoids, or else the next one; in order of their names.

    They follow from the attempts that have ended, so they are the same during all of an attempt.
    """
    ended = [attempt for attempt in look.status.attempts if attempt.finished is not None]
    if any(attempt.reason == NO_NODE_LEFT for attempt in ended):
        return ()
    failed: dict[str, int] = {}
    for attempt in ended:
        if node := _blamed(attempt):
            failed[node] = failed.get(node, 0) + 1
    worst = [node for node, count in failed.items() if count >= EXCLUDE_AFTER]
    return tuple(sorted(sorted(worst, key=lambda node: (-failed[node], node))[:MOST_EXCLUDED]))


def finds_none(look: Look) -> bool:
    """Say whether the open attempt avoids nodes and none of its pods has found one for too long."""
    attempt = look.attempt
    if attempt is None or attempt.started is None or not excluded_nodes(look) or not look.workers:
        return False
    waited_s = look.now_s - max(attempt.started.timestamp(), min(pod.created_s for pod in look.workers))
    return waited_s >= PATIENCE_S and all(pod.unschedulable and not pod.node for pod in look.workers)


def _blamed(attempt: AttemptStatus) -> str:
    return attempt.first_failure.node if attempt.counted and attempt.first_failure is not None else ""
