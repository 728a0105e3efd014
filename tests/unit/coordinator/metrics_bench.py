"""A scrape of the coordinator as Prometheus reads it, for the tests of its metrics."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from rounds_bench import TOKEN, Run

from sam3ft_api.messages import Hello, encode
from sam3ft_api.worker import Progress, RankFigures, SinkFigures, StepFigures, StepTimes
from sam3ft_launch.coordinator.counts import Counts
from sam3ft_launch.coordinator.metrics import RunMetrics
from sam3ft_launch.coordinator.rank_lines import rank_lines, ranks_shown
from sam3ft_launch.coordinator.roster import Action, Note

PROGRESS = Progress(
    state="training",
    step=120,
    total_steps=400,
    epoch=1.5,
    eta_s=280.0,
    images_per_s=12.5,
    loss=3.25,
    learning_rate=8e-5,
    metrics={"bbox_AP": 0.41},
    best_metric="bbox_AP",
    best_value=0.43,
    best_step=100,
    checkpoint_step=100,
    world_size=4,
    skipped_steps=1,
    bad_images=2,
    last_step_unix_s=1_764_000_000.0,
    figures=StepFigures(
        grad_norm=1.5,
        losses={"loss_bbox": 0.25, "loss_ce": 2.5},
        scores={"ce_f1": 0.75},
        steps=StepTimes(counts=(0,) * 8 + (2, 3) + (0,) * 10 + (1,), total_s=120.5),
        data_wait_s=4.5,
        flops_share=0.31,
        save_s=2.25,
        save_bytes=4096,
        sinks={"wandb": SinkFigures(sent=120, lost=3), "otlp": SinkFigures(sent=123)},
        ranks=(
            RankFigures(
                rank=0,
                data_s=0.125,
                peers_s=0.25,
                forward_s=0.5,
                device_bytes=10,
                resident_bytes=100,
                gpu_use=0.875,
                gpu_used_bytes=20,
                gpu_power_w=612.5,
                gpu_celsius=61.0,
            ),
            RankFigures(rank=1, data_s=0.25, forward_s=0.5, resident_bytes=200),
        ),
    ),
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(families: Iterable[Metric]) -> Samples:
    """Return every sample by name and labels; a series that appears twice is an error."""
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def scraped(text: str) -> Samples:
    """Return the samples of an answer in the text format."""
    return samples(text_string_to_metric_families(text))


class CountedRun(Run):
    """A state machine whose events are counted, as the server counts them."""

    def __init__(self, **settings: Any) -> None:
        self.counts = Counts()
        super().__init__(**settings)
        self.metrics = RunMetrics(self.rounds, self.counts)

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Note) and action.event is not None:
                is_over = self.rounds.verdict is not None or self.rounds.complete
                self.counts.add(action.event, is_over=is_over)
        super().do(actions)

    def samples(self) -> Samples:
        self.metrics.now_s = self.now_s
        return samples(self.metrics.collect()) | scraped(rank_lines(ranks_shown(self.rounds.progress)))

    def value(self, name: str, /, **labels: str) -> float | None:
        return self.samples().get((name, tuple(sorted(labels.items()))))

    def positive(self, name: str) -> dict[str, float]:
        """Return the values of a counter with one label that are not zero."""
        return {labels[0][1]: value for (found, labels), value in self.samples().items() if found == name and value}


def started(num_nodes: int, **changes: Any) -> CountedRun:
    """A group whose first round runs."""
    run = CountedRun(**{"nodes": num_nodes, "min_nodes": 1, "max_nodes": num_nodes, **changes})
    run.join(*range(num_nodes))
    run.wait(0.3)
    return run


def hello(**changes: Any) -> bytes:
    """A launcher's first line."""
    fields: dict[str, Any] = {"node": "n0", "slot": 0, "instance": "a", "started_unix_s": 0.0, "attempt": 1}
    return encode(Hello(**{**fields, "token": TOKEN, "addr": "127.0.0.1", **changes}))
