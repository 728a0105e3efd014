"""`ReportInput`: everything the report shows, as one JSON document."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.report import DatasetReport
from sam3ft_trainer.evaluate.scores import ClassRow, SplitScores


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class Interval(_Record):
    """One line of the training log: the step it ended with, and values at or over that interval.

    Attributes:
        step: optimizer updates done.
        epoch: passes over the data, with fraction.
        loss: total loss of the last step; None when it was not finite.
        grad_norm: before clipping.
        lr: of the transformer group.
        images_per_s: over the interval, all ranks.
        terms: unweighted loss terms of the last step.
        spans: seconds of the interval by what they went into (`data`, `forward`, ...).
    """

    step: int
    epoch: float = 0.0
    loss: float | None = None
    grad_norm: float | None = None
    lr: float | None = None
    images_per_s: float | None = None
    terms: Mapping[str, float | None] = {}
    spans: Mapping[str, float] = {}


class Evaluation(_Record):
    """One scoring of one split in the course of the run.

    Attributes:
        split: `valid` or `test`.
        step: updates at that time.
        epoch: passes over the data.
        metrics: by name, 0..1.
        per_class: one row for each category.
        images: images scored.
        baseline: the untouched model.
        is_best: the best so far.
    """

    split: str
    step: int
    epoch: float = 0.0
    metrics: Mapping[str, float | None]
    per_class: tuple[ClassRow, ...] = ()
    images: int = 0
    baseline: bool = False
    is_best: bool = False


class Incident(_Record):
    """Something worth knowing that happened: a resume, a skipped update, an early stop.

    Attributes:
        unix_s: wall clock.
        kind: name of the event.
        step: updates at that time, if the event says so.
        text: one sentence.
    """

    unix_s: float
    kind: str
    step: int | None = None
    text: str


class History(_Record):
    """What `events.jsonl` tells.

    Attributes:
        started_unix_s: first event.
        ended_unix_s: last event.
        attempts: how often the run was started.
        total_steps: updates planned.
        world_size: ranks of the last round.
        facts: sentences of the start: weights loaded, parts frozen, memory planned.
        intervals: in step order, of the steps that were kept.
        evaluations: in step order.
        incidents: in the order of time.
        skipped_steps: updates left out for a non-finite loss or gradient.
        unreadable_lines: lines of the log that are no JSON, for instance torn by a kill.
        export: the event of the export, if it was reached.
    """

    started_unix_s: float = 0.0
    ended_unix_s: float = 0.0
    attempts: int = 0
    total_steps: int = 0
    world_size: int = 1
    facts: Mapping[str, str] = {}
    intervals: tuple[Interval, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    incidents: tuple[Incident, ...] = ()
    skipped_steps: int = 0
    unreadable_lines: int = 0
    export: Mapping[str, str | float | int | None] | None = None


class Shape(_Record):
    """One object drawn on a picture, in pixels of the picture.

    Attributes:
        category: place in `ReportPicture.categories`' list of all names.
        box_xywh: left, top, width, height.
        path: SVG path of the mask's outline; empty without one.
        score: None for an annotated object.
        is_crowd: drawn dashed.
    """

    category: int
    box_xywh: tuple[float, float, float, float]
    path: str = ""
    score: float | None = None
    is_crowd: bool = False


class ReportPicture(_Record):
    """One test image with what is there and what was found.

    Attributes:
        image_id: COCO id.
        name: file name.
        width: of the picture as stored here, pixels.
        height: likewise.
        jpeg_base64: the picture.
        truth: annotated objects.
        found: detections, best first.
    """

    image_id: int
    name: str
    width: int
    height: int
    jpeg_base64: str
    truth: tuple[Shape, ...]
    found: tuple[Shape, ...]


class Pictures(_Record):
    """The pictures of one split.

    Attributes:
        categories: names, by the numbers that shapes use.
        threshold: only detections from this score on are shown; None when no picture has any and the best are shown.
        pictures: in image order.
    """

    categories: tuple[str, ...] = ()
    threshold: float | None = None
    pictures: tuple[ReportPicture, ...] = ()


class FinalScores(_Record):
    """Scores of the end.

    Attributes:
        final: the exported weights through the trainer's forward.
        baseline: the untouched model on the same split, if it was scored.
        hf_call: the exported weights through the plain Hugging Face call.
    """

    final: SplitScores | None = None
    baseline: SplitScores | None = None
    hf_call: SplitScores | None = None


class ReportInput(_Record):
    """Everything the report shows.

    Attributes:
        config: settings of the run.
        history: from the event log.
        datasets: account of each split.
        scores: of the end; empty while the run goes on.
        pictures: test images.
    """

    config: TrainingConfig
    history: History
    datasets: Mapping[Literal["train", "valid", "test"], DatasetReport] = {}
    scores: FinalScores = FinalScores()
    pictures: Pictures = Pictures()
