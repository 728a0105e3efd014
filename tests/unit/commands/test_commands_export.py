import argparse
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.commands import export as verb
from sam3ft_trainer.commands.export import score_rows
from sam3ft_trainer.run.weights import choose_step, load_run_weights
from sam3ft_trainer.store.history import History
from sam3ft_trainer.store.reading import open_run_reader


def history_of(made: Any) -> History:
    return open_run_reader(made.config.checkpoint.uri).history()


def test_the_best_commit_is_chosen_as_at_the_end_of_a_run(made_run: Callable[..., Any]):
    assert (3, "the best bbox_AP on valid, 0.5000") == choose_step(history_of(made_run()), "bbox_AP")


def test_the_newest_is_chosen_where_nothing_was_scored(made_run: Callable[..., Any]):
    step, why = choose_step(history_of(made_run(scored=False)), "bbox_AP")

    assert (6, True) == (step, why.startswith("the newest commit"))


def test_the_best_of_those_that_are_kept_replaces_a_best_one_that_is_gone(made_run: Callable[..., Any]):
    history = history_of(made_run())
    without_best = History(tuple(entry for entry in history.entries if entry.seq != 2), history.head_sha256)

    step, why = choose_step(without_best, "bbox_AP")

    assert (6, "the best bbox_AP of the commits that are kept, 0.4000") == (step, why)


@pytest.mark.parametrize(
    ("scored", "expected"),
    [(True, [("before, trainer's forward", 0.1), ("after, trainer's forward", 0.5)]), (False, [])],
)
def test_the_card_gets_the_scores_that_the_commit_records(
    made_run: Callable[..., Any], *, scored: bool, expected: list[tuple[str, float]]
):
    made = made_run(scored=scored)

    reader = open_run_reader(made.config.checkpoint.uri)
    weights = load_run_weights(made.config, reader, step=3, device=torch.device("cpu"))

    assert expected == [(row.label, row.metrics["bbox_AP"]) for row in score_rows(weights)]


def test_an_export_needs_a_destination(made_run: Callable[..., Any]):
    with pytest.raises(InvalidConfig, match="--to FOLDER"):
        verb.run(argparse.Namespace(config=made_run().document, step=None, to=None, output="text"))
