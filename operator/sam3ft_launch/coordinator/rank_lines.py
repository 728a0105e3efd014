"""Series of single ranks as text: four of five series of a large group, for which the client library takes too long.

Their names and labels are known here and need no escapes; docs/adr/0120 has the measurement.
"""

from collections.abc import Callable, Iterable, Sequence

from sam3ft_api.worker import Progress, RankFigures
from sam3ft_launch.coordinator.counts import BEFORE_TRAINING
from sam3ft_launch.coordinator.metrics import finite

RANK_GAUGES: tuple[tuple[str, str, Callable[[RankFigures], float | None]], ...] = (
    ("sam3ft_train_gpu_memory_bytes", "Most memory that tensors held on the device.", lambda it: it.device_bytes),
    ("sam3ft_train_resident_memory_bytes", "Memory of the process on the host.", lambda it: it.resident_bytes),
    ("sam3ft_train_gpu_utilization_ratio", "Share of the time in which the device had work.", lambda it: it.gpu_use),
    ("sam3ft_train_gpu_used_memory_bytes", "Most memory in use on the device.", lambda it: it.gpu_used_bytes),
    ("sam3ft_train_gpu_power_watts", "Power that the device drew.", lambda it: it.gpu_power_w),
    ("sam3ft_train_gpu_temperature_celsius", "Highest temperature of the device.", lambda it: it.gpu_celsius),
)
"""Name, help and value of each gauge with the label `rank`."""
RANK_PARTS: tuple[tuple[str, Callable[[RankFigures], float | None]], ...] = (
    ("data", lambda it: it.data_s),
    ("peers", lambda it: it.peers_s),
    ("forward", lambda it: it.forward_s),
)
"""Values of the label `part` of `sam3ft_train_rank_step_seconds`."""
_PARTS_NAME = "sam3ft_train_rank_step_seconds"


def ranks_shown(progress: Progress | None) -> tuple[RankFigures, ...]:
    """Return the figures of the present ranks: none before training, when they are an earlier group's."""
    if progress is None or progress.figures is None or progress.state in BEFORE_TRAINING:
        return ()
    return progress.figures.ranks


def rank_lines(ranks: Sequence[RankFigures]) -> str:
    """Return all series of the ranks, gauges, in lines that are the same in the text format and in OpenMetrics.

    Args:
        ranks: figures of each rank; a rank stands there once.
    """
    families = [_family(name, text, _by_rank(ranks, read)) for name, text, read in RANK_GAUGES]
    return "".join((*families, _family(_PARTS_NAME, "Seconds of a step, by part.", _by_part(ranks))))


def _family(name: str, text: str, values: Iterable[tuple[str, float]]) -> str:
    lines = [f"{name}{{{labels}}} {value!r}\n" for labels, value in values]
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n{''.join(lines)}" if lines else ""


def _by_rank(ranks: Sequence[RankFigures], read: Callable[[RankFigures], float | None]) -> Iterable[tuple[str, float]]:
    for rank in ranks:
        if (value := finite(read(rank))) is not None:
            yield f'rank="{rank.rank}"', value


def _by_part(ranks: Sequence[RankFigures]) -> Iterable[tuple[str, float]]:
    for rank in ranks:
        for part, read in RANK_PARTS:
            if (seconds := finite(read(rank))) is not None:
                yield f'part="{part}",rank="{rank.rank}"', seconds
