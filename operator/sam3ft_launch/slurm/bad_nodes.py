"""Nodes on which a run has failed for good: its job goes on elsewhere, where there is an elsewhere.

A launcher begins its workers again by itself, as often as `failurePolicy` lets it. One that has spent that while the
other nodes only lost a peer has a bad node, or the run fails everywhere: a second node tells which.
"""

from collections.abc import Mapping, Sequence

from sam3ft_api.exit_codes import rule_for
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.ends import PastEnd

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


def away_from(ends: Sequence[PastEnd], *, spare: int) -> tuple[str, ...]:
    """Return the nodes to keep away from after the newest end; none where it is not to go elsewhere.

    That is so when no node is blamed for it, when the run has failed on another node since its newest commit, too, and
    when the partition has no other nodes.

    Args:
        ends: of the attempt, oldest first, at least one.
        spare: nodes that the partition has beyond those that the job needs; no more than these are avoided.
    """
    newest = ends[-1]
    others = [end.node for end in ends if end.node and end.node != newest.node]
    since = [end.node for end in ends if end.node and end.commit_step == newest.commit_step]
    nodes = tuple(dict.fromkeys([newest.node, *reversed(others)]))
    if not newest.node or set(since) != {newest.node} or spare < 1:
        return ()
    return nodes[: min(spare, MOST_AVOIDED)]
