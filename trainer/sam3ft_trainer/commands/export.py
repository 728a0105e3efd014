"""`export`: the model of a commit as a Hugging Face folder, described and checked like the one a run hands back."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.export.card import CardScores
from sam3ft_trainer.export.package import ExportPlan, ExportResult, export_model
from sam3ft_trainer.run import machine
from sam3ft_trainer.run.card import ScoreTable, card_facts, check_inputs
from sam3ft_trainer.run.facts import dataset_digest
from sam3ft_trainer.run.foundation import open_splits
from sam3ft_trainer.run.weights import RunWeights, choose_step, load_run_weights
from sam3ft_trainer.run.worker import read_config
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.reading import RunReader, open_run_reader

MIB = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("--config", type=Path, required=True, help="config document of the run (JSON)")
    parser.add_argument(
        "--step", type=int, help="take the commit of this step; default: the best one, the newest without scores"
    )
    parser.add_argument("--to", metavar="URI", help="folder or bucket address to write; default: export.uri")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export and print where the model is."""
    config = read_config(arguments.config)
    destination = arguments.to or config.export.uri
    if destination is None:
        raise InvalidConfig("export.uri is not set; say where the model shall go with --to FOLDER")
    machine.settle(torch.device("cpu"), config.runtime, precision="fp32", committed_threads=None)
    reader = open_run_reader(config.checkpoint.uri, access=run_access(config.storage, os.environ))
    step, why = _choose(reader, config, arguments.step)
    weights = load_run_weights(config, reader, step=step, device=torch.device("cpu"))
    result, notes = write(config, weights, destination)
    if arguments.output == "json":
        sys.stdout.write(json.dumps(_document(result, weights, why, notes)) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(result, weights, why, notes)) + "\n")
    return 0


def _choose(reader: RunReader, config: TrainingConfig, step: int | None) -> tuple[int, str]:
    if step is not None:
        return step, "as asked"
    return choose_step(reader.history(), config.evaluation.metric)


def write(config: TrainingConfig, weights: RunWeights, destination: str) -> tuple[ExportResult, list[str]]:
    """Write the folder, and return what was written with notes for people.

    Raises:
        ModelUnusable, StorageDenied, StorageUnavailable: as `export_model`; nothing appears then.
    """
    datasets = open_splits(config)
    train, valid = datasets["train"], datasets["valid"]
    notes = list(weights.notes)
    if dataset_digest(train) != weights.commit.dataset_digest:
        notes.append("the annotations have changed since this commit; the card describes the present ones")
    step, loaded = weights.commit.meta.step, weights.loaded
    table = ScoreTable(split="valid", images=len(valid), rows=score_rows(weights))
    if not weights.commit.meta.metrics:
        notes.append("this commit was not scored, so the card has no scores of it; sam3ft eval computes them")
    with tempfile.TemporaryDirectory(prefix="sam3ft-export-") as scratch:
        plan = ExportPlan(
            destination=destination,
            scratch=Path(scratch),
            dtype=config.export.dtype,
            config=config.model,
            inputs=check_inputs(config, valid, loaded.tokenizer),
            access=run_access(config.storage, os.environ),
        )
        facts = card_facts(config, train, loaded, step=step, table=table)
        result = export_model(loaded.sam3, loaded.tokenizer, facts, plan)
    return result, notes + [f"the fresh process was warned: {line}" for line in result.check.warnings]


def score_rows(weights: RunWeights) -> tuple[CardScores, ...]:
    """Return the rows that the commit records: the untouched model's and these weights', both on `valid`."""
    metrics = weights.commit.meta.metrics
    if not metrics:
        return ()
    after = CardScores(label="after, trainer's forward", metrics=metrics)
    baseline = weights.state.baseline.get("valid")
    if baseline is None:
        return (after,)
    return (CardScores(label="before, trainer's forward", metrics=baseline.metrics), after)


def _document(result: ExportResult, weights: RunWeights, why: str, notes: list[str]) -> dict[str, Any]:
    return {
        "address": result.address,
        "step": weights.commit.meta.step,
        "chosen": why,
        "weight_bytes": result.weight_bytes,
        "largest_difference": result.check.largest_difference,
        "metrics": weights.commit.meta.metrics,
        "notes": notes,
        "seconds": round(result.seconds, 3),
    }


def _lines(result: ExportResult, weights: RunWeights, why: str, notes: list[str]) -> list[str]:
    checked = f"{result.check.num_outputs} outputs, largest relative difference {result.check.largest_difference:.2g}"
    return [
        *(f"note    {note}" for note in notes),
        f"model   {result.address}",
        f"weights {result.weight_bytes / MIB:,.1f} MiB of step {weights.commit.meta.step}: {why}",
        f"checked in a fresh process: {checked}",
    ]
