"""From a run's work folder to `report.html`.

Reads, each if it is there:

    events.jsonl     the event log of all attempts
    config.json      the run's settings
    dataset.json     accounts of the splits: {"train": ..., "valid": ..., "test": ...}
    scores.json      scores of the end: {"final": ..., "baseline": ..., "hf_call": ...}
    pictures.json    test images with truth and detections

so that a report can be built at any time, also of a run that goes on or has failed.
"""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter

from sam3ft_api.files import write_atomically
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.data.report import DatasetReport
from sam3ft_trainer.evaluate.report.document import FinalScores, Pictures, ReportInput
from sam3ft_trainer.evaluate.report.history import history_of, read_history
from sam3ft_trainer.evaluate.report.pictures import make_pictures
from sam3ft_trainer.evaluate.report.render import render
from sam3ft_trainer.evaluate.scores import SplitScores
from sam3ft_trainer.evaluate.truth import Truth

EVENTS, CONFIG, DATASET, SCORES, PICTURES = (
    "events.jsonl",
    "config.json",
    "dataset.json",
    "scores.json",
    "pictures.json",
)
"""Names of the files in the work folder."""
REPORT = "report.html"
"""Name of the page, if it lies there too."""
_DATASETS = TypeAdapter(dict[str, DatasetReport])
M = TypeVar("M", bound=BaseModel)


def build_report(work_dir: Path, out: Path, *, config: Path | None = None, log: bytes | None = None) -> None:
    """Write the report of a work folder to `out`, replacing it in one step.

    Args:
        work_dir: of the run.
        out: the page.
        config: where the run's settings lie, if not in the work folder.
        log: lines of the event log, if not those of the work folder.

    Raises:
        pydantic.ValidationError: one of the files is JSON of another form.
        OSError: `out` cannot be written.
    """
    write_atomically(out, render(collect(work_dir, config=config, log=log)))


def save_pictures(work_dir: Path, dataset: CocoDataset, truth: Truth, scores: SplitScores, *, threshold: float) -> None:
    """Write `pictures.json`: the images whose detections `scores` has kept, with truth and detections drawn on them.

    Raises:
        OSError: the folder cannot be written.
    """
    made = make_pictures(dataset, truth, scores, threshold=threshold)
    write_atomically(work_dir / PICTURES, made.model_dump_json())


def collect(work_dir: Path, *, config: Path | None = None, log: bytes | None = None) -> ReportInput:
    """Return what the files of a work folder tell; settings and log may come from elsewhere, as for `build_report`."""
    dataset = work_dir / DATASET
    return ReportInput(
        config=_read(config or work_dir / CONFIG, TrainingConfig),
        history=read_history(work_dir / EVENTS) if log is None else history_of(log),
        datasets=_DATASETS.validate_json(dataset.read_bytes()) if dataset.is_file() else {},
        scores=_read(work_dir / SCORES, FinalScores),
        pictures=_read(work_dir / PICTURES, Pictures),
    )


def _read(path: Path, kind: type[M]) -> M:
    return kind.model_validate_json(path.read_bytes()) if path.is_file() else kind()
