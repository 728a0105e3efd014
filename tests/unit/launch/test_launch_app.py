"""The process edge of `sam3ft`: every error is one message and a code of the table."""

import json
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig, Sam3ftError, StorageDenied
from sam3ft_api.exit_codes import EXIT_RULES, ExitCode
from sam3ft_launch.cli import doctor as doctor_verb
from sam3ft_launch.cli.app import main
from sam3ft_launch.cli.trainer import error_for

YAML = """\
apiVersion: sam3ft.dev/v1alpha1
kind: SAM3FineTune
metadata: {name: cells}
spec:
  model: {uri: preset:tiny}
  data: {uri: blood}
  training: {globalBatchSize: 2, epochs: 2, resolution: 224}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cells.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "cells.yaml", "--backend", "kubernetes"], "spec.checkpoint.uri is required on kubernetes"),
        (["run", "cells.yaml", "--backend", "kubernetes", "--nproc", "2"], "--nproc is for this machine"),
        (["run", "cells.yaml", "--backend", "local", "-n", "lab"], "--namespace is for --backend kubernetes"),
        (["run", "cells.yaml", "--backend", "slurm", "-n", "lab"], "--namespace is for --backend kubernetes"),
        (["status", "--kubeconfig", "nothing"], "no credentials for a cluster"),
        (["explain", "nobody"], "'nobody' names no run"),
        (["scale", "x", "--nodes", "2", "--backend", "local"], "on this machine choose --nproc"),
        (["suspend", "x", "--backend", "local"], "on this machine use `sam3ft cancel`"),
        (["scale", "x", "--nodes", "2", "--backend", "slurm"], "on this machine choose --nproc"),
        (["run", "cells.yaml", "--backend", "moon"], "--backend"),
        (["plan", "cells.yaml", "--backend", "kubernetes"], "spec.checkpoint.uri is required on kubernetes"),
        (["plan", "cells.yaml", "--backend", "kubernetes", "--nproc", "2"], "--nproc is for this machine"),
        (["plan", "cells.yaml", "--backend", "kubernetes", "--run-dir", "r"], "--run-dir is for this machine"),
        (["plan", "cells.yaml", "--worker-profiles", "w.yaml"], "--worker-profiles is for --backend kubernetes"),
        (["plan", "cells.yaml", "--backend", "kubernetes", "--worker-profiles", "w.yaml"], "w.yaml: cannot be read"),
        (["plan", "cells.yaml", "--backend", "kubernetes", "--storage-profiles", "s.yaml"], "s.yaml: cannot be read"),
        (["run", "nothing.yaml"], "nothing.yaml: cannot be read"),
        (["run"], "FILE"),
        (["run", "cells.yaml", "--nproc", "3"], "3 processes cannot share a global batch of 2 images"),
        (["run", "cells.yaml", "--nproc", "0"], "--nproc"),
        (["run", "cells.yaml", "--set", "training.epoch=2"], "did you mean epochs"),
        (["run", "cells.yaml", "--set", "data.uri=${HOME}"], "nothing is interpolated"),
        (["run", "cells.yaml", "--bogus"], "see `sam3ft run --help`"),
        (["fly"], "fly"),
        (["status"], "start one with `sam3ft run FILE`"),
        (["status", "nobody"], "'nobody' names no run"),
        (["status", "cells.yaml"], "'cells.yaml' names no run"),
        (["logs", "nobody"], "'nobody' names no run"),
        (["cancel", "nobody"], "'nobody' names no run"),
        (["eval", "nobody"], "'nobody' names no run"),
        (["export", "nobody"], "'nobody' names no run"),
    ],
)
def test_wrong_words_end_with_10_and_one_message(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    code = main(words)

    said = capsys.readouterr()
    assert ExitCode.INVALID_CONFIG == code
    assert message in said.err
    assert "(InvalidConfig, exit code 10)" in said.err
    assert "Traceback" not in said.err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("words", [["-o", "json"], ["-ojson"], ["--output=json"], ["--output", "json"]])
def test_machines_get_the_error_as_one_json_line(words: list[str], capsys: pytest.CaptureFixture[str]):
    code = main(["status", "nobody", *words])

    (line,) = capsys.readouterr().out.splitlines()
    event = json.loads(line)
    assert (code, "error", "InvalidConfig") == (event["code"], event["event"], event["reason"])


def test_a_record_that_cannot_be_read_is_the_users_to_mend(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "runs/cells").mkdir(parents=True)
    (folder / "runs/cells/run.json").write_text('{"version": 99}')

    code = main(["status", "cells"])

    assert ExitCode.STORAGE_DENIED == code
    assert "no record of this version" in capsys.readouterr().err


def test_a_defect_is_one_message_and_a_file_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def defect() -> dict[str, object]:
        raise RuntimeError("a defect")

    monkeypatch.setattr(doctor_verb, "_facts", defect)

    code = main(["doctor"])

    said = capsys.readouterr().err
    log = Path(said.partition("the traceback is in ")[2].split("\n")[0])
    text = log.read_text()
    log.unlink()
    assert ExitCode.INTERNAL_ERROR == code
    assert "unexpected RuntimeError: a defect" in said
    assert "Traceback" not in said
    assert "Traceback" in text
    assert "sam3ft doctor" in text


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch):
    def interrupt() -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor_verb, "_facts", interrupt)

    assert 130 == main(["doctor"])


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]):
    code = main(["--help"])

    text = capsys.readouterr().out
    verbs = {"run", "plan", "status", "logs", "cancel", "eval", "export", "doctor", "train", "version", "model"}
    assert 0 == code
    assert verbs <= {line.split()[0] for line in text.splitlines() if line.startswith("  ")}


@pytest.mark.parametrize(
    "code", [code for code, rule in EXIT_RULES.items() if rule.is_verdict] + [ExitCode.STORAGE_UNAVAILABLE]
)
def test_codes_of_the_trainer_become_errors_of_their_class(code: ExitCode):
    error = error_for(code, "why")

    assert (code, "why") == (error.code, str(error))


def test_unknown_codes_of_the_trainer_are_internal_errors():
    assert type(error_for(77, "why")) is Sam3ftError


def test_error_classes_of_other_modules_do_not_stand_in():
    assert InvalidConfig is type(error_for(10, "why"))
    assert StorageDenied is type(error_for(13, "why"))


def test_problems_of_a_machine_come_with_what_to_do():
    facts = {
        "libraries": {"torch": None, "numpy": "2"},
        "trainer_error": "",
        "disk_free_bytes": 1 << 30,
        "memory_free_bytes": 1 << 30,
        "folder": "/here",
        "device_nodes": 2,
        "devices": [],
        "cuda": "13.0",
    }

    problems = doctor_verb.find_problems(facts)

    assert 4 == len(problems)
    assert "torch is not installed" in problems[0]
    assert "1.0 GiB are free in /here" in problems[1]
    assert "of memory" in problems[2]
    assert "2 NVIDIA devices are present and torch sees none" in problems[3]


def test_a_fit_machine_has_no_problems():
    facts = {
        "libraries": {"torch": "2"},
        "trainer_error": "",
        "disk_free_bytes": 1 << 40,
        "memory_free_bytes": 1 << 40,
        "folder": "/here",
        "device_nodes": 0,
        "devices": [],
    }

    assert [] == doctor_verb.find_problems(facts)
