import json
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig, InvalidDataset
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.worker import WorkerResult
from sam3ft_trainer.run.worker import LastWord, WorkerEnvironment, classify, main, read_config


def test_every_known_error_ends_with_its_own_code() -> None:
    assert classify(InvalidDataset("bad")) == (ExitCode.INVALID_DATASET, "bad")


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory: you tried"])
def test_a_failed_allocation_is_out_of_memory_whatever_its_class(text: str) -> None:
    assert classify(RuntimeError(text))[0] == ExitCode.OUT_OF_MEMORY


def test_anything_else_is_an_internal_error_with_its_class_named() -> None:
    assert classify(KeyError("x")) == (ExitCode.INTERNAL_ERROR, "KeyError: 'x'")


def test_the_last_word_holds_the_newest_facts(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    word = LastWord(WorkerEnvironment(work_dir=tmp_path, rank=3, result_file=path))
    word.step, word.checkpoint_step, word.micro_batch = 7, 5, 2
    word.write(20, "saved")

    result = WorkerResult.model_validate_json(path.read_text())

    assert (result.code, result.rank, result.step, result.checkpoint_step) == (20, 3, 7, 5)
    assert (result.micro_batch, result.message) == (2, "saved")


def test_a_worker_learns_its_grace_and_where_the_node_keeps_things() -> None:
    environ = {"SAM3FT_WORK_DIR": "/w", "SAM3FT_CACHE_DIR": "/cache", "SAM3FT_EVICTION_GRACE_S": "110"}
    told, untold = WorkerEnvironment.read(environ), WorkerEnvironment.read({"SAM3FT_WORK_DIR": "/w"})

    assert (Path("/cache"), 110.0) == (told.cache_dir, told.eviction_grace_s)
    assert (None, None) == (untold.cache_dir, untold.eviction_grace_s)


def test_a_worker_without_a_work_folder_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="SAM3FT_WORK_DIR is not set"):
        WorkerEnvironment.read({})


def test_a_wrong_document_ends_with_10_before_torch_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"scratch": {"resolutoin": 28}}))
    monkeypatch.setenv("SAM3FT_CONFIG", str(config))
    monkeypatch.setenv("SAM3FT_WORK_DIR", str(tmp_path))
    monkeypatch.setenv("SAM3FT_RESULT_FILE", str(tmp_path / "result.json"))

    code = main()

    assert code == 10
    assert "scratch.resolutoin" in capsys.readouterr().err
    assert WorkerResult.model_validate_json((tmp_path / "result.json").read_text()).code == 10


def test_a_missing_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"nothing\.json cannot be read"):
        read_config(tmp_path / "nothing.json")
