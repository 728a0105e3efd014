"""`eval`: score a commit of a run, or a model folder, on a split. A run that goes on meanwhile is not disturbed."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.layout import Split
from sam3ft_trainer.data.pipeline import EvalLoader, decode_threads
from sam3ft_trainer.evaluate.read import truth_of
from sam3ft_trainer.evaluate.scores import ClassRow, SplitScores
from sam3ft_trainer.evaluate.split import EvaluationPlan, evaluate_split
from sam3ft_trainer.model.load import LoadedModel
from sam3ft_trainer.model.text import PhraseCache
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run import machine
from sam3ft_trainer.run.model_place import place_model
from sam3ft_trainer.run.text import CachedText, LiveText, TextSource
from sam3ft_trainer.run.weights import load_run_weights
from sam3ft_trainer.run.worker import read_config
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.reading import open_run_reader

_COLUMNS = ("bbox_AP", "bbox_AP50", "bbox_AR", "segm_AP", "segm_AP50", "segm_AR", "fp_absent_rate")
_NAME_WIDTH = 28


@dataclass(frozen=True, slots=True)
class Subject:
    """What is scored.

    Attributes:
        loaded: model and tokenizer.
        step: of the commit; None for a model folder.
        origin: in words.
        notes: lines worth knowing.
    """

    loaded: LoadedModel
    step: int | None
    origin: str
    notes: tuple[str, ...] = ()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("--config", type=Path, required=True, help="config document of the run (JSON)")
    parser.add_argument("--split", choices=get_args(Split), help="default: test where there is one, else valid")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", help="score this model instead of a commit: a folder, hf://... or preset:...")
    which.add_argument("--step", type=int, help="score the commit of this step; default: the newest")
    parser.add_argument(
        "--control", action="store_true", help="also score the detections against the annotations of other images"
    )
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Score and print; the JSON document holds the fields of `SplitScores`, and what was scored."""
    config = read_config(arguments.config)
    dataset = _open_split(config, arguments.split)
    device = machine.select_device(config.runtime.device, local_rank=0)
    machine.settle(device, config.runtime, precision=config.scratch.precision, committed_threads=None)
    subject = _subject(config, arguments.model, arguments.step, device)
    scores = score(config, dataset, subject.loaded, device=device, control=arguments.control)
    if arguments.output == "json":
        about = {"step": subject.step, "model": subject.origin, "notes": list(subject.notes)}
        sys.stdout.write(json.dumps(scores.model_dump(mode="json") | about) + "\n")
    else:
        sys.stdout.write("\n".join(lines(config, scores, subject)) + "\n")
    return 0


def score(
    config: TrainingConfig, dataset: CocoDataset, loaded: LoadedModel, *, device: torch.device, control: bool
) -> SplitScores:
    """Score a model as the run does: the trainer's forward, the run's precision, one phrase for each category."""
    masks = config.scratch.enable_segmentation
    model = TrainingModel(loaded.sam3, config.model)
    plan = EvaluationPlan(
        split=dataset.split,
        device=device,
        precision=config.scratch.precision,
        masks=masks,
        control=control,
        on_image=_Ticker(len(dataset)),
    )
    loader = EvalLoader(dataset, config, threads=decode_threads(config, processes_here=1))
    text = _text(config, dataset, loaded, model, device)
    return evaluate_split(model, loader, truth_of(dataset, masks=masks), config.evaluation, text=text.encode, plan=plan)


def _open_split(config: TrainingConfig, split: Split | None) -> CocoDataset:
    order: tuple[Split, ...] = ("test", "valid") if split is None else (split,)
    for name in order:
        dataset = open_dataset(config, name)
        if dataset is not None:
            return dataset
    raise InvalidConfig(f"the data set at {config.data.uri} has no {order[-1]} split; choose another one with --split")


def _subject(config: TrainingConfig, model: str | None, step: int | None, device: torch.device) -> Subject:
    if model is not None:
        loaded = place_model(model, config, os.environ).load(config, device=device)
        return Subject(loaded, None, loaded.origin)
    reader = open_run_reader(config.checkpoint.uri, access=run_access(config.storage, os.environ))
    weights = load_run_weights(config, reader, step=step, device=device)
    kind = "weights" if config.optim.ema_decay is None else "averaged weights"
    found = weights.commit.meta.step
    return Subject(weights.loaded, found, f"{kind} of step {found} in {reader.address}", weights.notes)


def _text(
    config: TrainingConfig, dataset: CocoDataset, loaded: LoadedModel, model: TrainingModel, device: torch.device
) -> TextSource:
    """The phrases as the run takes them: a frozen text encoder is computed once, outside autocast."""
    if "text" not in config.model.freeze:
        return LiveText(model, loaded.tokenizer, device)
    cache = PhraseCache(loaded.sam3, loaded.tokenizer)
    cache.add(dataset.phrases)
    return CachedText(cache, device)


class _Ticker:
    """One line that is rewritten while images are scored, on a terminal only."""

    def __init__(self, total: int) -> None:
        self._total = total

    def __call__(self, done: int) -> None:
        """Show `done` images."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\rscored {done}/{self._total} images" + ("\n" if done == self._total else ""))


def lines(config: TrainingConfig, scores: SplitScores, subject: Subject) -> list[str]:
    """Return the scores for people: metrics, then one row for each category, in percent."""
    said = [f"note    {note}" for note in subject.notes]
    said.append(f"model   {subject.origin}")
    bad = f", {scores.unreadable_images} more could not be read" if scores.unreadable_images else ""
    how = f"at {config.scratch.resolution} px in {config.scratch.precision}, {scores.seconds:.1f} s"
    said.append(f"split   {scores.split}, {scores.images} images{bad}, {how}")
    said += ["", *(f"{name:<{_NAME_WIDTH}} {_percent(value):>8}" for name, value in scores.metrics.items())]
    columns = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in scores.per_class)]
    header = f"{'category':<{_NAME_WIDTH}} {'images':>8} {'objects':>8}" + "".join(f" {name:>14}" for name in columns)
    said += ["", header, *(_class_line(row, columns) for row in scores.per_class)]
    return [*said, "", "in percent; - where nothing in the split defines the value"]


def _class_line(row: ClassRow, columns: list[str]) -> str:
    name = row.name if len(row.name) <= _NAME_WIDTH else row.name[: _NAME_WIDTH - 3] + "..."
    values = "".join(f" {_percent(getattr(row, column)):>14}" for column in columns)
    return f"{name:<{_NAME_WIDTH}} {row.images:>8} {row.objects:>8}{values}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
