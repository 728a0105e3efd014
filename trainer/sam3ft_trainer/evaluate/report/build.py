"""From a run's work folder to `report.html`.

Reads, each if it is there:

    events.jsonl     the event log of all attempts
    config.json      the run's settings
    dataset.json     accounts of the splits: {"train": ..., "valid": ..., "test": ...}
    scores.json      scores of the end: {"final": ..., "baseline": ..., "hf_call": ...}
    pictures.json    test images with truth and detections

so that a report can be built at any time, also of a run that goes on or has failed.
"""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.report import DatasetReport
from sam3ft_trainer.evaluate.report.document import FinalScores, Pictures, ReportInput
from sam3ft_trainer.evaluate.report.history import read_history
from sam3ft_trainer.evaluate.report.render import render

EVENTS, CONFIG, DATASET, SCORES, PICTURES = (
    "events.jsonl",
    "config.json",
    "dataset.json",
    "scores.json",
    "pictures.json",
)
"""Names of the files in the work folder."""
_DATASETS = TypeAdapter(dict[str, DatasetReport])
M = TypeVar("M", bound=BaseModel)


def build_report(work_dir: Path, out: Path) -> None:
    """Write the report of a work folder to `out`, replacing it in one step.

    Raises:
        pydantic.ValidationError: one of the files is JSON of another form.
        OSError: `out` cannot be written.
    """
    text = render(collect(work_dir))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def collect(work_dir: Path) -> ReportInput:
    """Return what the files of a work folder tell."""
    dataset = work_dir / DATASET
    return ReportInput(
        config=_read(work_dir / CONFIG, TrainingConfig),
        history=read_history(work_dir / EVENTS),
        datasets=_DATASETS.validate_json(dataset.read_bytes()) if dataset.is_file() else {},
        scores=_read(work_dir / SCORES, FinalScores),
        pictures=_read(work_dir / PICTURES, Pictures),
    )


def _read(path: Path, kind: type[M]) -> M:
    return kind.model_validate_json(path.read_bytes()) if path.is_file() else kind()
