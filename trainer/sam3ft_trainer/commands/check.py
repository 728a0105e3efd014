"""`check`: everything that can refuse a run, looked at before any training step and without a device being taken."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.files import write_atomically, write_last_word
from sam3ft_api.status import DatasetStatus
from sam3ft_api.termination import Termination
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.commands.edge import add_output_option
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.check import check_dataset
from sam3ft_trainer.data.figures import merged, sentence
from sam3ft_trainer.data.layout import Split
from sam3ft_trainer.data.report import DatasetReport
from sam3ft_trainer.run.preflight import Preflight, examine, examine_for_others, reach_stores
from sam3ft_trainer.run.worker import classify, read_config
from sam3ft_trainer.store.access import run_access

SHOWN_CLASSES = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("--config", type=Path, required=True, help="config document (JSON)")
    parser.add_argument("--nproc", type=int, default=1, help="processes that will share the work")
    parser.add_argument(
        "--for-others",
        action="store_true",
        help="the workers run on other machines: judge neither the device nor the memory of this one",
    )
    parser.add_argument("--save", type=Path, help="also write the account of the data set here, as JSON")
    parser.add_argument("--termination-log", type=Path, help="where the last word is written, JSON of `Termination`")
    parser.add_argument("--no-decode", action="store_true", help="do not decode every image")
    add_output_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check and print; returns 0, or raises the error that refuses the run. The last word is written either way."""
    try:
        reports = _check(arguments)
    except Exception as error:
        code, message = classify(error)
        _leave(arguments.termination_log, Termination(code=int(code), reason=rule_for(code).reason, message=message))
        raise
    word = Termination(
        code=int(ExitCode.SUCCEEDED), reason=rule_for(ExitCode.SUCCEEDED).reason, dataset=dataset_figures(reports)
    )
    _leave(arguments.termination_log, word)
    return 0


def dataset_figures(reports: Mapping[Split, DatasetReport]) -> DatasetStatus:
    """Return the sums over all splits, as the status of a resource has them.

    The digest is that of the splits' names and the digests of their annotation files, which name the images.
    """
    marks = "".join(f"{split} {report.digest}\n" for split, report in sorted(reports.items()))
    asked = {category.name for report in reports.values() for category in report.categories if category.asked}
    problems = [problem for report in reports.values() for problem in report.problems]
    return DatasetStatus(
        images=sum(report.images for report in reports.values()),
        annotations=sum(report.annotations for report in reports.values()),
        categories=len(asked),
        problems=sum(problem.count for problem in problems if problem.severity != "notice"),
        digest=hashlib.sha256(marks.encode()).hexdigest(),
    )


def _leave(path: Path | None, word: Termination) -> None:
    if path is None:
        return
    try:
        write_last_word(path, word.to_json())
    except OSError as error:
        sys.stderr.write(f"the last word cannot be written to {path}: {error.strerror}\n")


def _check(arguments: argparse.Namespace) -> dict[Split, DatasetReport]:
    config = read_config(arguments.config)
    if arguments.nproc > config.scratch.train_batch_size:
        raise InvalidConfig(
            f"{arguments.nproc} processes share a global batch of {config.scratch.train_batch_size} images, so some "
            "would never get one; start fewer processes or raise training.globalBatchSize"
        )
    quiet = arguments.output == "json"
    reach_stores(config, run_access(config.storage, os.environ))
    access = DataAccess(config, os.environ)
    reports = check_dataset(
        config,
        access=access,
        decode=not arguments.no_decode,
        threads=len(os.sched_getaffinity(0)),
        progress=_silent if quiet else _Ticker(),
    )
    preflight = (
        examine_for_others(config, access=access)
        if arguments.for_others
        else examine(config, processes=arguments.nproc, access=access)
    )
    if arguments.save is not None:
        _save(arguments.save, reports)
    if quiet:
        document = {"datasets": {split: report.to_json() for split, report in reports.items()}}
        sys.stdout.write(json.dumps(document | {"preflight": preflight.to_json()}) + "\n")
    else:
        sys.stdout.write("\n".join([*_lines(config, reports, preflight), *_reading_lines(access)]) + "\n")
    return reports


def _save(path: Path, reports: dict[Split, DatasetReport]) -> None:
    try:
        write_atomically(path, json.dumps({split: report.to_json() for split, report in reports.items()}))
    except OSError as error:
        raise StorageDenied(f"{path} cannot be written: {error.strerror}; name another file") from error


def _silent(_split: Split, _done: int, _all: int) -> None:
    """Say nothing."""


class _Ticker:
    """Progress of the decoding: one line that is rewritten on a terminal, a line per quarter elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, split: Split, done: int, total: int) -> None:
        """Show `done` of `total` images of `split`."""
        if self._is_terminal:
            sys.stderr.write(f"\rchecking {split}: {done}/{total} images" + ("\n" if done == total else ""))
        elif done == total or (total >= 1000 and done % (total // 4) == 0):
            sys.stderr.write(f"checking {split}: {done}/{total} images\n")


def _lines(config: TrainingConfig, reports: dict[Split, DatasetReport], preflight: Preflight) -> list[str]:
    lines = []
    for split, report in reports.items():
        lines.append(f"{split:<6} {report.images} images, {report.annotations} annotations ({report.address})")
        asked = [category for category in report.categories if category.asked]
        lines += [
            f"         {category.name}: {category.objects} objects in {category.images} images, "
            f"asked as {', '.join(repr(phrase) for phrase in category.phrases)}"
            for category in asked[:SHOWN_CLASSES]
        ]
        if len(asked) > SHOWN_CLASSES:
            lines.append(f"         and {len(asked) - SHOWN_CLASSES} more categories")
        lines += _problem_lines(report)
    lines += preflight.lines()
    lines.append(f"ready to train {config.task} with {config.model.uri} at {config.scratch.resolution} px")
    return lines


def _reading_lines(access: DataAccess) -> list[str]:
    """What reading from a store has cost, and where the images are kept now; nothing for folders."""
    cache = access.describe_cache()
    if not cache:
        return []
    lines = [sentence(merged([access.figures.take()]))]
    if cache["folder"] is None:
        return [*lines, f"no cache: {cache['reason']}"]
    return [*lines, f"cache: {cache['used_bytes']:,} of {cache['limit_bytes']:,} bytes in {cache['folder']}"]


def _problem_lines(report: DatasetReport) -> list[str]:
    lines = []
    for problem in report.problems:
        lines.append(f"         {problem.severity}: {problem.kind.replace('_', ' ')} ({problem.count})")
        lines += [f"           {example}" for example in problem.examples[:2]]
    dropped: dict[str, Any] = {
        "objects too small for data.bounds.min_area at any scale": report.dropped.small_always,
        "objects too small at the smallest scale only": report.dropped.small_sometimes,
        "objects in pairs above data.bounds.max_objects_per_phrase": report.dropped.crowded_objects,
    }
    return lines + [f"         left out in training: {count} {what}" for what, count in dropped.items() if count]
