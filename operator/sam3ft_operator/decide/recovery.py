"""Whether a run is still making good an end that counted, for its condition Degraded."""

from sam3ft_api.exit_codes import EXIT_RULES
from sam3ft_api.status import ConditionType, moment
from sam3ft_operator.decide.conditions import condition_of
from sam3ft_operator.decide.course import Claim
from sam3ft_operator.decide.ends import OUT_OF_HOST_MEMORY
from sam3ft_operator.decide.look import Look

_REASONS = frozenset({OUT_OF_HOST_MEMORY, *(rule.reason for rule in EXIT_RULES.values() if rule.counts)})
"""Of ends that count; no trouble of the cluster is called so."""


def recovers(look: Look, newest: tuple[str, str] | None = None) -> tuple[Claim, ...]:
    """Claim that the run is degraded, from an end that counts until a step has been finished after it.

    Nothing but the condition itself remembers that, so that the same look twice says the same, and a coordinator that
    is away brings nothing back. It is forgotten with the window of the failure policy, whatever the clocks of nodes
    say.

    Args:
        look: of this moment.
        newest: reason and message of an end that this look counts; None when it counts none.
    """
    known = condition_of(look.status, ConditionType.DEGRADED)
    if known is not None and known.status != "True":
        known = None
    if newest is None and known is not None and known.reason in _REASONS:
        newest = known.reason, known.message
    if newest is None:
        return ()
    since = known.last_transition_time if known is not None else moment(look.now_s)
    told = look.group.progress if look.group is not None else None
    has_stepped = told is not None and (told.last_step_unix_s or 0.0) > since.timestamp()
    if has_stepped or look.now_s - since.timestamp() > look.spec.failure_policy.window_seconds:
        return ()
    return (Claim(ConditionType.DEGRADED, "True", *newest),)
