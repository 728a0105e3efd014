import argparse
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sam3ft_api.errors import CheckpointIncompatible, InvalidConfig
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.commands import eval as verb
from sam3ft_trainer.commands.eval import Subject, lines
from sam3ft_trainer.evaluate.scores import ClassRow, SplitScores
from sam3ft_trainer.run.weights import load_run_weights
from sam3ft_trainer.store.reading import open_run_reader

CPU = torch.device("cpu")


def words(made: Any, **changes: Any) -> argparse.Namespace:
    defaults = {"split": None, "model": None, "step": None, "control": False, "output": "json"}
    return argparse.Namespace(config=made.document, **(defaults | changes))


def differences(made: Any, step: int | None) -> set[float]:
    """How far the loaded parameters are from the initial ones, as rounded numbers."""
    weights = load_run_weights(made.config, open_run_reader(made.config.checkpoint.uri), step=step, device=CPU)
    named = weights.loaded.sam3.named_parameters()
    return {round(float(value.detach().sub(made.initial[name]).mean()), 2) for name, value in named}


@pytest.mark.parametrize(("step", "expected"), [(None, {0.0, 6.0}), (3, {0.0, 3.0})])
def test_the_weights_of_a_commit_are_put_in_place(made_run: Callable[..., Any], step: int | None, expected: set[float]):
    assert expected == differences(made_run(), step)


def test_averaged_weights_go_before_the_trained_ones(made_run: Callable[..., Any]):
    assert {0.0, 106.0} == differences(made_run(optim={"ema_decay": 0.9}), None)


def test_a_frozen_text_encoder_comes_from_the_initial_weights(made_run: Callable[..., Any]):
    made = made_run(model={"freeze": ["text"]})

    weights = load_run_weights(made.config, open_run_reader(made.config.checkpoint.uri), step=6, device=CPU)

    state = weights.loaded.sam3.state_dict()
    text = [name for name in state if name.startswith("text_")]
    assert text
    assert all(torch.equal(made.initial[name], state[name]) for name in text)
    assert torch.allclose(
        made.initial["detr_decoder.query_embed.weight"] + 6, state["detr_decoder.query_embed.weight"], atol=1e-5
    )


def test_other_initial_weights_are_refused(made_run: Callable[..., Any]):
    made = made_run()
    changed = made.config.model_copy(update={"scratch": made.config.scratch.model_copy(update={"seed_value": 7})})

    with pytest.raises(CheckpointIncompatible, match="put the original weights back"):
        load_run_weights(changed, open_run_reader(made.config.checkpoint.uri), step=None, device=CPU)


def test_other_settings_are_told(made_run: Callable[..., Any]):
    made = made_run()
    changed = made.config.model_copy(update={"optim": made.config.optim.model_copy(update={"lr": 1e-5})})

    weights = load_run_weights(changed, open_run_reader(made.config.checkpoint.uri), step=None, device=CPU)

    assert ("the run was trained with other settings: optim.lr: 8e-05 there, 1e-05 here",) == weights.notes


@pytest.mark.parametrize("freeze", [[], ["text"]])
def test_machines_read_the_scores_of_the_newest_commit_on_test(
    made_run: Callable[..., Any], capsys: pytest.CaptureFixture[str], freeze: list[str]
):
    made = made_run(model={"freeze": freeze})
    before = made.log()

    code = verb.run(words(made, control=True))

    assert 0 == code
    document = json.loads(capsys.readouterr().out)
    assert (6, []) == (document.pop("step"), document.pop("notes"))
    assert "weights of step 6" in document.pop("model")
    scores = SplitScores.model_validate(document)
    assert ("test", 2, ["cell", "a category whose name is a long sentence"]) == (
        scores.split,
        scores.images,
        [row.name for row in scores.per_class],
    )
    assert "control_bbox_AP" in scores.metrics
    assert before == made.log()


def test_a_model_needs_no_run(
    configured: Callable[..., TrainingConfig], tmp_path: Any, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "config.json").write_text(configured().model_dump_json())
    asked = {"split": "valid", "model": "preset:tiny-nano", "step": None, "control": False, "output": "text"}

    code = verb.run(argparse.Namespace(config=tmp_path / "config.json", **asked))

    assert 0 == code
    said = capsys.readouterr().out
    assert "model   preset:tiny-nano?seed=123\nsplit   valid, 2 images, at 28 px in fp32" in said


def test_a_split_that_does_not_exist_is_refused(made_run: Callable[..., Any], tmp_path: Any, coco: Any):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(coco / "train")
    made = made_run(data={"uri": str(tmp_path / "data"), "holdout": 0.3})

    with pytest.raises(InvalidConfig, match="has no test split"):
        verb.run(words(made, split="test"))


def test_scores_are_shown_in_percent_with_a_row_for_each_category(made_run: Callable[..., Any]):
    row = ClassRow(category_id=1, name="a" * 40, images=2, objects=5, bbox_AP=0.1234)
    scores = SplitScores(
        split="test", images=3, unreadable_images=1, metrics={"bbox_AP": 0.5, "IL_MCC": None}, per_class=(row,)
    )

    said = lines(TrainingConfig(), scores, Subject(None, 6, "weights of step 6", ("something",)))

    assert said[0] == "note    something"
    assert "3 images, 1 more could not be read" in said[2]
    assert ["bbox_AP", "50.00"] == said[4].split()
    assert ["IL_MCC", "-"] == said[5].split()
    assert ["category", "images", "objects", "bbox_AP"] == said[7].split()
    assert ["a" * 25 + "...", "2", "5", "12.34"] == said[8].split()
