"""`check` leaves a last word for whoever cannot read its output."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidDataset
from sam3ft_api.files import write_last_word
from sam3ft_api.termination import Termination
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.commands import check
from sam3ft_trainer.commands.edge import guarded
from sam3ft_trainer.data.access import DataAccess
from sam3ft_trainer.data.check import check_dataset


def checked(config: Path, log: Path | None, *words: str) -> int:
    parser = argparse.ArgumentParser()
    check.configure(parser)
    where = () if log is None else ("--termination-log", str(log))
    return guarded(check.run, parser.parse_args(["--config", str(config), *where, *words]))


@pytest.fixture
def config(configured: Callable[..., TrainingConfig], tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(configured().model_dump_json())
    return path


def test_the_figures_of_the_data_set_are_in_the_last_word(config: Path, coco: Path, tmp_path: Path):
    code = checked(config, tmp_path / "word")

    word = Termination.model_validate_json((tmp_path / "word").read_bytes())
    assert (0, 0, "Succeeded") == (code, word.code, word.reason)
    assert word.dataset is not None
    assert (8, 8, 2) == (word.dataset.images, word.dataset.annotations, word.dataset.categories)
    assert 0 == word.dataset.problems
    assert 64 == len(word.dataset.digest)


def test_the_digest_follows_the_annotations_wherever_they_lie(config: Path, coco: Path, tmp_path: Path):
    shutil.copytree(coco, tmp_path / "copy")
    document = json.loads(config.read_text())
    document["data"]["uri"] = str(tmp_path / "copy")
    config.write_text(json.dumps(document))

    def digest() -> str:
        data = TrainingConfig.model_validate_json(config.read_bytes())
        return check.dataset_figures(check_dataset(data, access=DataAccess(data, {}), decode=False, threads=1)).digest

    copied = digest()
    annotations = tmp_path / "copy/test/_annotations.coco.json"
    annotations.write_text(annotations.read_text() + "\n")

    changed = digest()
    document["data"]["uri"] = str(coco)
    config.write_text(json.dumps(document))
    assert digest() == copied
    assert copied != changed


def test_a_refusal_says_code_reason_and_message(config: Path, coco: Path, tmp_path: Path):
    document = json.loads(config.read_text())
    document["data"]["uri"] = str(tmp_path / "nowhere")
    config.write_text(json.dumps(document))

    code = checked(config, tmp_path / "word")

    word = Termination.model_validate_json((tmp_path / "word").read_bytes())
    assert code in (11, 13)
    assert code == word.code
    assert "nowhere" in word.message
    assert word.dataset is None


def test_a_config_that_cannot_be_read_is_told_as_well(tmp_path: Path):
    code = checked(tmp_path / "missing.json", tmp_path / "word")

    word = Termination.model_validate_json((tmp_path / "word").read_bytes())
    assert (10, 10, "InvalidConfig") == (code, word.code, word.reason)
    assert "missing.json" in word.message


def test_a_defect_is_told_by_its_kind(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(_arguments: argparse.Namespace) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(check, "_check", broken)

    assert 1 == checked(config, tmp_path / "word")
    word = Termination.model_validate_json((tmp_path / "word").read_bytes())
    assert ("InternalError", "ZeroDivisionError: by zero") == (word.reason, word.message)


def test_a_last_word_that_cannot_be_written_changes_no_verdict(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refused(_arguments: argparse.Namespace) -> None:
        raise InvalidDataset("no image")

    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(check, "_check", refused)

    assert 11 == checked(config, tmp_path / "folder")
    said = capsys.readouterr().err
    assert "the last word cannot be written to" in said
    assert "error: no image" in said


def test_without_a_place_nothing_is_written(config: Path, tmp_path: Path):
    before = sorted(tmp_path.iterdir())

    assert 0 == checked(config, None, "-o", "json")
    assert before == sorted(tmp_path.iterdir())


def test_problems_of_all_splits_are_counted_but_not_notices(config: Path, coco: Path, tmp_path: Path):
    split = tmp_path / "mended/train"
    split.mkdir(parents=True)
    for path in (coco / "train").iterdir():
        (split / path.name).write_bytes(path.read_bytes())
    annotations = json.loads((split / "_annotations.coco.json").read_text())
    annotations["annotations"][0]["bbox"] = [40, 40, 30, 30]  # beyond the image: cut
    (split / "_annotations.coco.json").write_text(json.dumps(annotations))
    document = json.loads(config.read_text())
    document["data"]["uri"] = str(split.parent)
    config.write_text(json.dumps(document))

    assert 0 == checked(config, tmp_path / "word", "--save", str(tmp_path / "account"))
    word = Termination.model_validate_json((tmp_path / "word").read_bytes())
    account = json.loads((tmp_path / "account").read_text())
    problems = [problem for report in account.values() for problem in report["problems"]]
    counts = dict.fromkeys(("bad", "mended", "notice"), 0)
    for problem in problems:
        counts[problem["severity"]] += problem["count"]
    assert word.dataset is not None
    assert counts["bad"] + counts["mended"] == word.dataset.problems > 0


def test_a_file_that_cannot_be_replaced_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the kubelet's file, which is a mount in a folder that belongs to root."""
    log = tmp_path / "log"
    log.write_text("an older and longer word")
    identity = log.stat().st_ino

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("sam3ft_api.files.write_atomically", read_only)
    write_last_word(log, "word")

    assert ("word", identity) == (log.read_text(), log.stat().st_ino)
