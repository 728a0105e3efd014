"""The final scores of a run, as the trainer leaves them in `work/scores.json`."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

_SHOWN_FIRST = ("bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "cgF1")


class ScoredSplit(BaseModel):
    """One scoring; the file holds more, which is for the report."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    split: str
    images: int
    metrics: dict[str, float | None]


class FinalScores(BaseModel):
    """Scores of the end.

    Attributes:
        final: the model that was handed over.
        baseline: the untouched model on the same split, None when it was not scored.
        hf_call: the exported folder through the plain Hugging Face call, None without an export.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    final: ScoredSplit
    baseline: ScoredSplit | None = None
    hf_call: ScoredSplit | None = None


def read_scores(path: Path) -> FinalScores | None:
    """Return the final scores, None when the run has left none that can be read."""
    try:
        document: Any = json.loads(path.read_bytes())
        return FinalScores.model_validate(document)
    except (OSError, ValueError, ValidationError):
        return None


def score_lines(scores: FinalScores) -> list[str]:
    """Return a table for people: one metric a line, before and after, undefined metrics left out."""
    columns = [("before", scores.baseline), ("after", scores.final), ("plain call", scores.hf_call)]
    present = [(title, split) for title, split in columns if split is not None]
    what = f"scores on {scores.final.split} ({scores.final.images} images)"
    lines = [f"  {what:<28}" + "".join(f"{title:>12}" for title, _ in present)]
    for name in _ordered(scores.final.metrics):
        values = "".join(_cell(split.metrics.get(name)) for _, split in present)
        lines.append(f"    {name:<26}{values}")
    return lines


def _ordered(metrics: dict[str, float | None]) -> list[str]:
    defined = [name for name, value in metrics.items() if value is not None]
    return sorted(defined, key=lambda name: (name not in _SHOWN_FIRST, name))


def _cell(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{value:>12.4f}"
