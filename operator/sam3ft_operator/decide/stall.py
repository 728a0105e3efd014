"""The backstop against a run that says it trains and does not, for what launchers cannot see themselves."""

from sam3ft_operator.decide.look import Look

FLOOR_S = 1800.0
"""No run is taken for stalled before this; a launcher's own watchdog is far quicker."""
STEPS = 50.0
"""Steps of the present speed after which the next one is overdue."""
TRAINING = "training"


def stalled_for(look: Look) -> float | None:
    """Return for how many seconds no step has finished although the group says it trains; None while that is normal.

    Only what the coordinator has just told counts: a coordinator that cannot be asked proves nothing about workers.
    """
    group = look.group
    progress = group.progress if group is not None else None
    if group is None or progress is None or group.state != "running" or progress.state != TRAINING:
        return None
    if progress.last_step_unix_s is None or look.now_s - group.read_s > FLOOR_S / 2:
        return None
    batch = look.spec.training.global_batch_size
    step_s = batch / progress.images_per_s if progress.images_per_s else 0.0
    silent_s = look.now_s - progress.last_step_unix_s
    return silent_s if silent_s > max(FLOOR_S, STEPS * step_s) else None
