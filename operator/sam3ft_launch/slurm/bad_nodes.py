"""Nodes on which a run has failed again and again: its job goes on elsewhere, where there is an elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence

from sam3ft_api.exit_codes import rule_for
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.ends import PastEnd

AVOID_AFTER = 2
"""Ends of one attempt that were one node's doing, after which the job is kept away from it."""
MOST_AVOIDED = 16
"""A run that fails on more nodes is itself the cause."""


def blamed(words: Mapping[int, Termination], hosts: Sequence[str]) -> str:
    """Return the node whose doing an end was; empty when it was no node's, or that of several.

    A launcher that fails by itself says so in its last word; those of the other nodes say that they lost a peer.

    Args:
        words: last words by slot; nodes that left none are missing.
        hosts: names of the job's nodes, by slot.
    """
    failed = [slot for slot, word in words.items() if rule_for(word.code).counts]
    return hosts[failed[0]] if len(failed) == 1 and failed[0] < len(hosts) else ""


def avoided(ends: Sequence[PastEnd], *, spare: int) -> tuple[str, ...]:
    """Return the nodes to keep away from, the worst first.

    Args:
        ends: of the attempt.
        spare: nodes that the partition has beyond those that the job needs; no more than these are avoided.
    """
    counts = Counter(end.node for end in ends if end.node)
    worst = sorted((node for node, times in counts.items() if times >= AVOID_AFTER), key=lambda it: (-counts[it], it))
    return tuple(worst[: max(0, min(spare, MOST_AVOIDED))])
