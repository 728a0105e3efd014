import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.commands import plan as verb
from sam3ft_trainer.commands.plan import duration_text, flops_text, lines, size_text
from sam3ft_trainer.model.presets import preset_config
from sam3ft_trainer.run.plan import make_plan, plan_horizon

Configured = Callable[..., TrainingConfig]


def test_the_plan_counts_data_updates_parameters_and_bytes(configured: Configured):
    document = make_plan(configured(optim={"ema_decay": 0.9}), processes=1).to_json()

    assert {"images": 4, "annotations": 4, "categories": 2, "is_holdout": False} == document["data"]["train"]
    assert (True, 2) == (document["data"]["valid"]["is_holdout"], document["data"]["valid"]["images"])
    assert (2, 8, 8, "epochs", 4) == tuple(
        document["updates"][key]
        for key in ("steps_per_epoch", "total_steps", "expected_steps", "ends_by", "evaluations")
    )
    total, trained = document["model"]["parameters"], document["model"]["trained"]
    assert 0 < trained < total
    assert 4 * total + 12 * trained == document["storage"]["commit"]
    assert 5 * document["storage"]["commit"] == document["storage"]["checkpoints"]
    assert 4 * total == document["storage"]["export"]
    memory = document["memory"]
    state = sum(memory[key] for key in ("weights", "gradients", "optimizer", "ema"))
    assert memory["total"] == state + memory["step_peak"] + memory["overhead"]


def test_more_processes_share_the_images_and_do_the_same_work(configured: Configured):
    one, two = (make_plan(configured(), processes=count) for count in (1, 2))

    assert (2, 1) == (one.micro_batch, two.micro_batch)
    assert one.horizon == two.horizon
    vision = [plan.flops_by_part["vision"] for plan in (one, two)]
    assert vision[0] == vision[1]


def test_freezing_takes_parameters_memory_and_checkpoint_bytes_away(configured: Configured):
    everything = make_plan(configured(), processes=1)
    without = make_plan(configured(model={"freeze": ["vision", "text"]}), processes=1)

    assert without.freeze.num_trained < everything.freeze.num_trained
    assert without.storage.commit < everything.storage.commit
    assert without.memory.plan.state < everything.memory.plan.state


def test_a_folder_needs_no_weights_to_be_planned(configured: Configured, tmp_path: Path):
    preset_config("tiny-nano").save_pretrained(tmp_path / "model")

    planned = make_plan(configured(model={"uri": str(tmp_path / "model")}), processes=1)

    assert make_plan(configured(), processes=1).freeze == planned.freeze


@pytest.mark.parametrize("processes", [0, 3])
def test_processes_without_an_image_are_refused(configured: Configured, processes: int):
    with pytest.raises(InvalidConfig, match=rf"--nproc {processes} is not within 1\.\.2"):
        make_plan(configured(), processes=processes)


@pytest.mark.parametrize(
    ("scratch", "total", "expected", "ends_by"),
    [
        ({"max_data_epochs": 3}, 6, 6, "epochs"),
        ({"max_data_epochs": 3, "max_steps": 5}, 5, 5, "steps"),
        ({"max_data_epochs": 100_000, "max_duration_s": 100}, 200_000, 50, "duration"),
        ({"max_data_epochs": 3, "max_duration_s": 100}, 6, 6, "epochs"),
        ({"max_data_epochs": 100_000, "max_duration_s": 1}, 200_000, 1, "duration"),
    ],
)
def test_a_run_ends_by_what_comes_first(
    configured: Configured, scratch: dict[str, float], total: int, expected: int, ends_by: str
):
    horizon = plan_horizon(configured(scratch={"train_batch_size": 2, **scratch}), 4, step_s=2.0)

    assert (total, expected, ends_by) == (horizon.total_steps, horizon.expected_steps, horizon.ends_by)


@pytest.mark.parametrize(("every", "expected"), [(1, 5), (2, 3), (0.5, 10), (None, 1), (100, 1)])
def test_evaluations_are_counted_with_the_last_one(configured: Configured, every: float | None, expected: int):
    config = configured(scratch={"train_batch_size": 2, "max_data_epochs": 5}, evaluation={"every_epochs": every})

    assert expected == plan_horizon(config, 4, step_s=1.0).evaluations


def test_people_read_an_estimate_with_its_basis_and_the_warnings(configured: Configured):
    said = "\n".join(lines(make_plan(configured(), processes=1)))

    for part in ("held out of train", "an estimate", "nothing was measured", "warning: the run has 8 updates"):
        assert part in said


def test_machines_read_one_document(configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "config.json").write_text(configured().model_dump_json())

    code = verb.run(argparse.Namespace(config=tmp_path / "config.json", nproc=1, output="json"))

    assert 0 == code
    document = json.loads(capsys.readouterr().out)
    assert ["FewUpdates", "LongRamps", "BatchAndRate"] == [advice["kind"] for advice in document["advice"]]
    assert not (tmp_path / "run").exists()


def test_numbers_are_shown_in_units_for_people():
    assert ["0 B", "1.5 KiB", "3.0 GiB"] == [size_text(size) for size in (0, 1536, 3 << 30)]
    assert ["12 FLOP", "1.50 TFLOP"] == [flops_text(count) for count in (12, 1.5e12)]
    assert ["0:00:01", "0:01:01", "2 days, 0:00:00"] == [duration_text(s) for s in (0.01, 60.2, 172_800)]
