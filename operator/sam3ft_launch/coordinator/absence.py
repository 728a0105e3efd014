"""Why a member of a round does not take part in it; pure."""

from collections.abc import Collection

from sam3ft_launch.coordinator.roster import Formation, Node, NodeState
from sam3ft_launch.coordinator.settings import Settings


def absence(
    formation: Formation, name: str, node: Node | None, settings: Settings, *, now_s: float, adopting: bool
) -> str | None:
    """Return why this member makes the round end, None while it takes part, has done its part, or may yet come back.

    Args:
        formation: the running round.
        name: one of its members.
        node: that member, None when it is not connected.
        settings: of the attempt.
        now_s: the clock with which nodes and formation were changed.
        adopting: members of a round that this process did not see begin may still introduce themselves.
    """
    if name in formation.done:
        return None
    if name in formation.left:
        return "has left" if now_s - formation.left[name] > settings.last_call_s else None
    if node is None:
        may_come_back = adopting and formation.is_adopted and name not in formation.silent
        return None if may_come_back else "is lost"
    return None if node.state is NodeState.RUNNING or _is_excused(node, settings, now_s) else "does not run any more"


def silent_nodes(nodes: Collection[Node], settings: Settings, *, now_s: float) -> list[Node]:
    """Return the nodes that have said nothing for too long, while some other is heard or when none is.

    While all the others are overdue as well, it is not decided yet whose fault the silence is: nothing is returned.
    """
    silent = [node for node in nodes if now_s - node.seen_s > settings.silence_s]
    is_somebody_heard = any(now_s - node.seen_s <= settings.overdue_s for node in nodes)
    return silent if is_somebody_heard or len(silent) == len(nodes) else []


def _is_excused(node: Node, settings: Settings, now_s: float) -> bool:
    """Return True while a member that does not run leaves the others alone."""
    since_s = now_s - node.since_s
    if node.has_saved:
        # Its workers ended because everybody's agreed to; the others are about to, and must not be cut short.
        return since_s <= settings.last_call_s
    # What a node does follows its hello at once: ready, down or done.
    return node.state is NodeState.CONNECTED and since_s <= settings.settle_s
