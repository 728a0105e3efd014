"""Refusals for want of memory, disk or images per process: code and message, before anything is loaded."""

import argparse
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from sam3ft_api.errors import DeviceOutOfMemory, InvalidConfig, ModelUnusable, StorageDenied
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.commands import check
from sam3ft_trainer.run import memory, preflight

Usage = namedtuple("Usage", ["total", "used", "free"])  # noqa: PYI024 - the form of shutil's own answer
EXAMPLE = Path(__file__).parents[3] / "examples" / "blood-cells"


def make_config(tmp_path: Path, **sections: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "scratch": {"resolution": 28, "train_batch_size": 4, "precision": "fp32"},
            "model": {"uri": "preset:tiny-nano"},
            "data": {"uri": str(EXAMPLE)},
            "checkpoint": {"uri": str(tmp_path / "not" / "yet" / "there")},
            **sections,
        }
    )


def test_a_run_that_fits_is_described(tmp_path: Path) -> None:
    found = preflight.examine(make_config(tmp_path), processes=1)

    assert (found.device, found.micro_batch, found.checkpointed) == ("cpu", 4, ())
    assert 0 < found.memory_bytes < found.memory_budget_bytes
    assert found.disk_bytes > 4 * found.commit_bytes > 0
    assert any("preset:tiny-nano" in line for line in found.lines())


def test_two_processes_share_the_batch_and_the_memory(tmp_path: Path) -> None:
    alone = preflight.examine(make_config(tmp_path), processes=1)

    shared = preflight.examine(make_config(tmp_path), processes=2)

    assert shared.micro_batch == 2
    assert shared.memory_budget_bytes < 0.6 * alone.memory_budget_bytes


def test_less_memory_than_the_plan_needs_is_refused_with_16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory_bytes", lambda _device: 1 << 20)

    with pytest.raises(DeviceOutOfMemory, match=r"needs .* GiB .* may be used; lower scratch.resolution") as caught:
        preflight.examine(make_config(tmp_path), processes=1)

    assert caught.value.code == 16


def test_less_disk_than_the_checkpoints_need_is_refused_with_13(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 40, 0, 1 << 16))

    with pytest.raises(StorageDenied, match=r"GiB free, and 5 commits of .* lower checkpoint.keepLast") as caught:
        preflight.examine(make_config(tmp_path), processes=1)

    assert caught.value.code == 13
    assert not (tmp_path / "not").exists()


def test_the_room_of_a_bucket_is_not_asked(tmp_path: Path) -> None:
    found = preflight.examine(make_config(tmp_path, checkpoint={"uri": "s3://bucket/run"}), processes=1)

    assert (found.disk_bytes, found.disk_free_bytes) == (0, None)


def test_memory_and_device_of_this_machine_are_not_judged_for_workers_on_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory_bytes", lambda _device: 1 << 20)
    config = make_config(tmp_path, runtime={"device": "cuda"}, checkpoint={"uri": "s3://bucket/run"})

    found = preflight.examine_for_others(config)

    assert (found.device, found.memory_bytes, found.disk_free_bytes) == (None, None, None)
    assert found.lines() == [
        "model  preset:tiny-nano, random weights",
        "memory is judged by the workers, on the devices that they have",
    ]


def test_room_in_a_folder_counts_for_workers_on_other_machines_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = preflight.examine(make_config(tmp_path), processes=1)

    found = preflight.examine_for_others(make_config(tmp_path))

    assert (found.commit_bytes, found.disk_bytes) == (here.commit_bytes, here.disk_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(1 << 40, 0, 1 << 16))
    with pytest.raises(StorageDenied, match=r"lower checkpoint\.keepLast"):
        preflight.examine_for_others(make_config(tmp_path))


def test_a_preset_is_judged_by_its_name_for_workers_on_other_machines(tmp_path: Path) -> None:
    config = make_config(tmp_path, checkpoint={"uri": "s3://bucket/run"}, model={"uri": "preset:huge"})

    with pytest.raises(InvalidConfig, match="'preset:huge' is unknown; presets are tiny"):
        preflight.examine_for_others(config)


def test_a_folder_of_weights_is_judged_by_its_headers_for_workers_on_other_machines(tmp_path: Path) -> None:
    config = make_config(tmp_path, model={"uri": str(tmp_path)}, checkpoint={"uri": "s3://bucket/run"})

    with pytest.raises(ModelUnusable, match=r"config\.json"):
        preflight.examine_for_others(config)


def test_a_check_for_others_loads_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(make_config(tmp_path, checkpoint={"uri": None}).model_dump_json())
    program = (
        "import sys; from sam3ft_trainer.__main__ import main; code = main(); "
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules); sys.exit(code)"
    )
    words = ["check", "--for-others", "--no-decode", "--config", str(path)]

    ended = subprocess.run([sys.executable, "-c", program, *words], check=False, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    assert "memory is judged by the workers" in ended.stdout


def check_arguments(tmp_path: Path, *words: str) -> argparse.Namespace:
    path = tmp_path / "config.json"
    path.write_text(make_config(tmp_path).model_dump_json())
    parser = argparse.ArgumentParser()
    check.configure(parser)
    return parser.parse_args(["--config", str(path), *words])


def test_more_processes_than_images_in_a_batch_are_refused_with_10(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="5 processes share a global batch of 4 images") as caught:
        check.run(check_arguments(tmp_path, "--nproc", "5"))

    assert caught.value.code == 10


def test_the_check_prints_one_document_for_machines_and_saves_the_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = check.run(check_arguments(tmp_path, "-o", "json", "--no-decode", "--save", str(tmp_path / "dataset.json")))

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(document["datasets"]) == {"train", "valid", "test"}
    assert document["datasets"] == json.loads((tmp_path / "dataset.json").read_text())
    assert document["preflight"]["device"] == "cpu"


def test_the_check_tells_people_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.run(check_arguments(tmp_path, "--no-decode"))

    out = capsys.readouterr().out
    assert "test   30 images, 691 annotations" in out
    assert "category 0 'RBC-WBC' has no annotation" in out
    assert "ready to train detection with preset:tiny-nano at 28 px" in out
