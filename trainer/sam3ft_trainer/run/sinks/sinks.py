"""All sinks of a run as one, and from the config document to them."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from sam3ft_api import limits
from sam3ft_api.fields import SinkName
from sam3ft_api.redact import redact
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.run.sinks.feed import Feed
from sam3ft_trainer.run.sinks.mlflow_sink import MlflowSink
from sam3ft_trainer.run.sinks.otlp_sink import OtlpSink
from sam3ft_trainer.run.sinks.sink import Point, Sink, SinkContext
from sam3ft_trainer.run.sinks.variables import prepare_environment
from sam3ft_trainer.run.sinks.wandb_sink import WandbSink
from sam3ft_trainer.run.sinks.words import secret_texts, speaker

CLOSE_S = 5.0
"""How long the end of a run waits for all sinks together."""
MAX_CURVES = limits.MAX_METRICS
"""Different names of values; a server keeps a series for each, often for ever."""
MAX_SETTING_CHARS = 500
"""Characters of one setting; the oldest MLflow servers take no more."""
_SINKS: dict[SinkName, Callable[[], Sink]] = {"wandb": WandbSink, "mlflow": MlflowSink, "otlp": OtlpSink}


class Sinks:
    """The feeds of all enabled sinks; without any, every call does nothing."""

    def __init__(self, feeds: Sequence[Feed] = (), *, clock: Callable[[], float] = time.time) -> None:
        """Take the feeds over.

        Args:
            feeds: one for each sink.
            clock: seconds since the epoch.
        """
        self._feeds = tuple(feeds)
        self._clock = clock
        self._names: set[str] = set()

    def offer(self, step: int, values: Mapping[str, float]) -> None:
        """Hand finite values to every sink, at once; names beyond `MAX_CURVES` are lost, and counted."""
        if not self._feeds:
            return
        shown = {name: float(value) for name, value in values.items() if math.isfinite(value) and self._admits(name)}
        point = Point(step, self._clock(), shown)
        beyond = sum(math.isfinite(value) for value in values.values()) - len(shown)
        for feed in self._feeds:
            if shown:
                feed.offer(point)
            if beyond:
                feed.lose(beyond, f"more than {MAX_CURVES} curves")

    def news(self) -> list[dict[str, Any]]:
        """Return the fields of the events to be told now."""
        return [news for feed in self._feeds for news in feed.news()]

    def figures(self) -> dict[str, dict[str, int]]:
        """Return what became of the values, as JSON values of `SinkFigures` by name."""
        counts = {feed.name: feed.counts() for feed in self._feeds}
        return {name: {"sent": it.sent, "lost": it.lost} for name, it in counts.items()}

    def close(self, *, is_complete: bool, within_s: float = CLOSE_S) -> None:
        """Let all sinks end beside each other, and leave those that have not within the time.

        Args:
            is_complete: the run has ended well.
            within_s: for all together.
        """
        end_s = time.monotonic() + within_s
        for feed in self._feeds:
            feed.finish(is_complete=is_complete)
        for feed in self._feeds:
            feed.leave(end_s - time.monotonic())

    def _admits(self, name: str) -> bool:
        if name not in self._names and len(self._names) >= MAX_CURVES:
            return False
        self._names.add(name)
        return True


def open_sinks(config: TrainingConfig, *, work_dir: Path, attempt: int, environ: MutableMapping[str, str]) -> Sinks:
    """Return the sinks that the document names; their libraries are imported with the first value.

    Args:
        config: of the run.
        work_dir: existing folder of the run on this node; what libraries write goes below `sinks/`.
        attempt: from 1.
        environ: of this process; what the libraries need is added.
    """
    enabled = config.tracking.sinks
    if not enabled:
        return Sinks()
    folder = work_dir / "sinks"
    for name in enabled:
        (folder / name).mkdir(parents=True, exist_ok=True)
    prepare_environment(enabled, environ, folder)
    words = speaker(secret_texts(environ))
    identity = config.identity
    key = hashlib.sha256(json.dumps([identity.name, identity.uid]).encode()).hexdigest()[:32]
    settings = flat_settings(config)

    def feed(name: SinkName) -> Feed:
        context = SinkContext(
            run=identity.name,
            uid=identity.uid,
            key=key,
            attempt=attempt,
            project=config.tracking.project,
            folder=folder / name,
            settings=settings,
        )
        return Feed(name, _SINKS[name](), context, words=words)

    return Sinks([feed(name) for name in enabled])


def flat_settings(config: TrainingConfig, *, without: Collection[str] = ("identity", "tracking")) -> dict[str, str]:
    """Return the document as `section.setting` and a text each, without what looks like a secret, cut where long.

    Args:
        config: the document.
        without: sections that say nothing about the run.
    """
    document = config.model_dump(mode="json")
    return {
        f"{section}.{name}": redact(value if isinstance(value, str) else json.dumps(value))[:MAX_SETTING_CHARS]
        for section, settings in document.items()
        if section not in without
        for name, value in settings.items()
    }
