"""Nodes on which a run has failed for good: its job goes on elsewhere, where there is an elsewhere.

A launcher begins its workers again by itself, as often as `failurePolicy` lets it. When one has spent that, all end
with its code and say on whose node it was. Whether the node is bad or the run, a second node tells.
"""

import re
from collections.abc import Mapping, Sequence

from sam3ft_api.exit_codes import rule_for
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.ends import PastEnd

MOST_MOVES = 3
"""A run that fails on more nodes is itself the cause."""
_NODE = re.compile(r"node-(\d{1,6})")


def blamed(words: Mapping[int, Termination], hosts: Sequence[str]) -> str:
    """Return the node whose doing an end was; empty when it was no node's, that of several, or of no node of this job.

    Args:
        words: last words by slot; nodes that left none are missing.
        hosts: names of the job's nodes, by slot.
    """
    slots = {_slot_of(word, slot) for slot, word in words.items() if rule_for(word.code).counts}
    slot = slots.pop() if len(slots) == 1 else -1
    return hosts[slot] if 0 <= slot < len(hosts) else ""


def _slot_of(word: Termination, writer: int) -> int:
    """The node on which it happened; a launcher that names none speaks of its own."""
    if not word.node:
        return writer
    match = _NODE.fullmatch(word.node)
    return int(match[1]) if match is not None else -1


def away_from(ends: Sequence[PastEnd], *, spare: int) -> tuple[str, ...]:
    """Return the nodes to keep away from after the newest end; none where it is not to go elsewhere.

    That is so when no node is blamed for it, when this or another node was blamed before with no newer commit between,
    when the job has moved often, and when the partition has no other nodes.

    Args:
        ends: of the attempt, oldest first, at least one.
        spare: nodes that the partition has beyond those that the run needs; no more than these are avoided.
    """
    newest, earlier = ends[-1], [end for end in ends[:-1] if end.node]
    is_first = not any(end.commit_step == newest.commit_step for end in earlier)
    if not newest.node or not is_first or len(earlier) >= MOST_MOVES or spare < 1:
        return ()
    return tuple(dict.fromkeys([newest.node, *(end.node for end in reversed(earlier))]))[:spare]
