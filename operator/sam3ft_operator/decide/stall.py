"""The backstop against a run that says it trains and does not, for what launchers cannot see themselves."""

from collections.abc import Mapping

from sam3ft_operator.decide.look import Look

WATCHDOG_S = 1800.0
"""Default of `runtime.watchdog_s`, after which a launcher ends hanging workers, with their stacks."""
MARGIN = 1.25
"""How much later than the launcher's watchdog the operator acts: never before it, or the stacks would be lost."""
STEPS = 50.0
"""Steps of the present speed after which the next one is overdue."""
TRAINING = "training"


def stalled_for(look: Look) -> float | None:
    """Return for how many seconds no step has finished although the group says it trains; None while that is normal.

    Only what the coordinator has just told counts: a coordinator that cannot be asked proves nothing about workers.
    The clocks of the workers' nodes may be wrong, so a step is also as young as its number is new here.
    """
    group = look.group
    progress = group.progress if group is not None else None
    if group is None or progress is None or group.state != "running" or progress.state != TRAINING:
        return None
    if progress.last_step_unix_s is None or look.now_s - group.read_s > _patience_s(look) / 2:
        return None
    known = look.status.progress
    if known is None or known.step != progress.step or known.last_step_time is None:
        return None
    silent_s = look.now_s - max(progress.last_step_unix_s, known.last_step_time.timestamp())
    batch = look.spec.training.global_batch_size
    step_s = batch / progress.images_per_s if progress.images_per_s else 0.0
    return silent_s if silent_s > max(_patience_s(look), STEPS * step_s) else None


def _patience_s(look: Look) -> float:
    runtime = look.spec.training.config.get("runtime")
    told = runtime.get("watchdog_s") if isinstance(runtime, Mapping) else None
    is_number = isinstance(told, int | float) and not isinstance(told, bool)
    return MARGIN * max(WATCHDOG_S, float(told) if is_number and told is not None else 0.0)
