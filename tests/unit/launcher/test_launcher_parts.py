"""Small parts of the launcher: options, environment, files, termination message."""

import os
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.status import DatasetStatus
from sam3ft_api.termination import Termination
from sam3ft_api.worker import Flag, FlagKind, WorkerResult
from sam3ft_trainer.run.launcher.budget import Budget, History
from sam3ft_trainer.run.launcher.environment import (
    device_environment,
    inherited_micro_batch_max,
    threads_per_worker,
    usable_cores,
    worker_environment,
)
from sam3ft_trainer.run.launcher.files import WorkFolder
from sam3ft_trainer.run.launcher.launch import read_config
from sam3ft_trainer.run.launcher.link import progress_reader
from sam3ft_trainer.run.launcher.options import parse_options

NEEDED = ["--config", "c.json", "--work-dir", "w", "--coordinator", "[::1]:4000"]


def test_options_have_their_documented_defaults():
    options = parse_options(NEEDED)

    assert options.coordinator == ("::1", 4000)
    assert (options.processes, options.node, options.slot, options.attempt) == (1, "node-0", 0, 1)
    assert options.budget == Budget(10, 3600.0, 5)
    assert options.command == ()
    assert options.config.is_absolute()


def test_a_command_stands_behind_two_dashes():
    options = parse_options([*NEEDED, "--nproc", "2", "--", "python", "-c", "pass"])

    assert options.command == ("python", "-c", "pass")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nproc", "0"], "from 1 to 16"),
        (["--node", "a b"], "'a b'"),
        (["--coordinator", "host"], "HOST:PORT"),
        (["--eviction-grace-s", "-1"], "number of seconds"),
        (["--slot", "x"], "whole number"),
    ],
)
def test_a_wrong_option_ends_with_10_and_names_what_is_allowed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        parse_options([*NEEDED, *arguments])

    assert ended.value.code == 10
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "inherited", "threads"), [(3, "7", 3), (None, "7", 7), (None, None, 4), (None, "x", 4), (None, "0", 4)]
)
def test_threads_are_the_setting_else_the_environment_s_else_a_share(
    wanted: int | None, inherited: str | None, threads: int
):
    assert threads_per_worker(wanted, inherited=inherited, processes=2, cores=8) == threads
    assert threads_per_worker(None, inherited=None, processes=16, cores=8) == 1


def test_usable_cores_are_between_one_and_the_affinity():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


def test_runs_on_a_cpu_get_what_makes_them_repeat():
    assert device_environment(on_cpu=True, threads=2) == {
        "OMP_NUM_THREADS": "2",
        "PYTORCH_JIT": "0",
        "MKL_CBWR": "AUTO,STRICT",
    }
    assert device_environment(on_cpu=False, threads=2) == {"OMP_NUM_THREADS": "2"}


def test_a_worker_knows_its_files_and_its_bound(tmp_path: Path):
    folder = WorkFolder(tmp_path / "work")
    bound = worker_environment(
        config=Path("/c"), folder=folder, rank=3, attempt=2, micro_batch_max=4, eviction_grace_s=110.0
    )
    free = worker_environment(config=Path("/c"), folder=folder, rank=3, attempt=2, micro_batch_max=None)

    assert bound["SAM3FT_RESULT_FILE"].endswith("result-3.json")
    assert (bound["SAM3FT_ATTEMPT"], bound["SAM3FT_MICRO_BATCH_MAX"]) == ("2", "4")
    assert bound["SAM3FT_EVICTION_GRACE_S"] == "110"
    assert not {"SAM3FT_MICRO_BATCH_MAX", "SAM3FT_EVICTION_GRACE_S"} & free.keys()


def test_what_an_earlier_worker_left_is_not_read_again(tmp_path: Path):
    folder = WorkFolder(tmp_path / "work")
    folder.log_file(0).write_text("Traceback of long ago\n")
    folder.result_file(0).write_text(WorkerResult(code=11, rank=0).model_dump_json())
    start = folder.prepare(0)

    assert folder.read_result(0) is None
    assert folder.log_tail(0, start=start) == ""


@pytest.mark.parametrize("text", ["", "{", '{"code": 1}', '{"code": 1, "rank": 5}', '{"code": 999, "rank": 0}'])
def test_a_last_word_that_cannot_be_understood_is_none(tmp_path: Path, text: str):
    folder = WorkFolder(tmp_path / "work")
    folder.result_file(0).write_text(text)

    assert folder.read_result(0) is None


def test_a_large_log_moves_aside_at_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_trainer.run.launcher.files._ROTATE_BYTES", 10)
    folder = WorkFolder(tmp_path / "work")
    folder.log_file(0).write_text("more than ten bytes")

    assert folder.prepare(0) == 0
    assert folder.log_file(0).with_name("rank-0.log.1").read_text() == "more than ten bytes"


def test_a_flag_is_raised_and_lowered(tmp_path: Path):
    folder = WorkFolder(tmp_path / "work")
    folder.raise_flag(Flag(kind=FlagKind.EVICT, deadline_unix_s=5.0))
    raised = Flag.model_validate_json(folder.flag_file.read_text())
    folder.lower_flag()

    assert raised.kind is FlagKind.EVICT
    assert not folder.flag_file.exists()


def test_progress_of_another_launcher_is_not_looked_at(tmp_path: Path):
    path = tmp_path / "progress.json"
    path.write_text('{"state": "training", "step": 9}')
    read = progress_reader(path)
    assert read() is None

    path.with_suffix(".new").write_text('{"state": "training", "step": 3}')
    os.utime(path.with_suffix(".new"), (1.0, 1.0))  # a folder whose clock is far behind this node's
    path.with_suffix(".new").replace(path)
    seen = read()

    assert seen is not None
    assert seen.step == 3
    path.write_text("torn")
    assert read() == seen


def test_a_config_document_that_is_missing_or_wrong_is_named(tmp_path: Path):
    wrong = tmp_path / "c.json"
    wrong.write_text('{"scratch": {"resolution": "big"}}')

    with pytest.raises(InvalidConfig, match=r"scratch\.resolution"):
        read_config(wrong)
    with pytest.raises(InvalidConfig, match="cannot be read"):
        read_config(tmp_path / "none.json")


def test_an_inherited_bound_must_be_a_positive_number():
    assert inherited_micro_batch_max({}) is None
    assert inherited_micro_batch_max({"SAM3FT_MICRO_BATCH_MAX": "4"}) == 4

    with pytest.raises(InvalidConfig, match="'none'"):
        inherited_micro_batch_max({"SAM3FT_MICRO_BATCH_MAX": "none"})


def test_outages_of_the_store_have_a_budget_of_their_own():
    history = History(Budget(1, 100.0, 50))
    spent = [history.spend(code, now_s=0.0) for code in (22, 1, 23, 26, 143)]
    last = history.spend(22, now_s=1.0)

    assert spent == [None] * 5
    assert last is not None
    assert history.pause_s(23) == 0.0


def test_a_termination_message_keeps_code_and_rank_however_long_the_rest_is():
    word = Termination(
        code=1,
        reason="InternalError",
        message="é" * 2048,
        rank=3,
        traceback="ü" * 16_384,
        metrics={f"bbox_AP/{index}": 0.1 for index in range(512)},
        node="n" * 253,
        dataset=DatasetStatus(images=2**53 - 1, annotations=2**53 - 1, categories=7, problems=9, digest="d" * 64),
    )
    text = word.to_json()
    read = Termination.model_validate_json(text)

    assert len(text.encode()) <= 4096
    assert word.dataset == read.dataset
    assert (read.code, read.rank) == (1, 3)
    assert read.message.startswith("é" * 100)


def test_a_short_termination_message_keeps_everything():
    word = Termination(code=20, reason="Interrupted", message="saved", traceback="t", metrics={"bbox_AP": 0.5})

    assert Termination.model_validate_json(word.to_json()) == word
