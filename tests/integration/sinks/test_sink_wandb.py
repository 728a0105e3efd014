"""Weights & Biases' own library, offline: no server of theirs can be had here, so what it would upload is read.

Each attempt is a process of its own, as a worker is: the library keeps a program and settings for a whole process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb_file import records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEY = "0123456789abcdef0123456789abcdef"
SECRET = "5ec7e70123456789012345678901234567890123"  # noqa: S105 - a canary
ATTEMPT = """
import os, sys
from pathlib import Path
from sam3ft_trainer.run.sinks.sink import Point, SinkContext
from sam3ft_trainer.run.sinks.variables import prepare_environment
from sam3ft_trainer.run.sinks.wandb_sink import WandbSink
folder, attempt, steps = Path(sys.argv[1]), int(sys.argv[2]), map(int, sys.argv[3:])
(folder / "wandb").mkdir(parents=True, exist_ok=True)
prepare_environment(("wandb",), os.environ, folder)
sink = WandbSink()
sink.open(SinkContext("blood", "uid-1", "KEY", attempt, "cells", folder / "wandb", {"optim.lr": str(attempt)}))
for step in steps:
    print("said on the console", file=sys.stderr)
    sink.scalars(Point(step, 1_764_000_000.0 + step, {"train/loss": step / 8, "valid/bbox_AP": 0.5}))
sink.close(is_complete=True)
sys.stdout.flush()
os._exit(0)
""".replace("KEY", KEY)


def attempt(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One worker's life in a home of its own; a file in its present folder tells whether that was written to."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    here = {"HOME": str(home), "TMPDIR": str(home), "WANDB_API_KEY": SECRET, **environment}
    return subprocess.run(
        [sys.executable, "-c", ATTEMPT, str(folder / "sinks"), *words],
        cwd=home,
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def histories(folder: Path) -> list[list[dict[str, Any]]]:
    """Return the rows that each process has logged, oldest process first, without the library's own columns."""
    found = []
    for path in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        rows = [record.history for record in records(path) if record.WhichOneof("record_type") == "history"]
        named = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in rows
        ]
        found.append([{name: value for name, value in row.items() if not name.startswith("_")} for row in named])
    return found


def test_attempts_are_one_run_whose_steps_may_come_again(tmp_path: Path):
    for words in (("1", "10", "20"), ("2", "20", "30")):
        ended = attempt(tmp_path, *words, WANDB_MODE="offline")
        assert (0, "") == (ended.returncode, ended.stdout), ended.stderr

    score = {"valid/bbox_AP": 0.5}
    expected = [[10, 20], [20, 30]]
    assert [[{"step": step, "train/loss": step / 8, **score} for step in steps] for steps in expected] == histories(
        tmp_path
    )
    whole = [record for path in tmp_path.rglob("*.wandb") for record in records(path)]
    runs = {(it.run.run_id, it.run.project, it.run.display_name) for it in whole if it.HasField("run")}
    assert {(KEY, "cells", "blood")} == runs
    metrics = [it.metric for it in whole if it.HasField("metric")]
    assert {("*", "step")} == {(it.glob_name, it.step_metric) for it in metrics if it.glob_name}


def test_nothing_but_curves_and_settings_would_leave_the_machine(tmp_path: Path):
    (tmp_path / "home").mkdir()
    for words in (["init", "--quiet"], ["remote", "add", "origin", "https://git.example/cells"]):
        subprocess.run(["git", *words], cwd=tmp_path / "home", check=True)
    ended = attempt(tmp_path, "1", "10", WANDB_MODE="offline")
    assert 0 == ended.returncode, ended.stderr

    (path,) = tmp_path.rglob("*.wandb")
    kinds = {str(record.WhichOneof("record_type")) for record in records(path)}
    assert {"header", "run", "config", "metric", "history", "summary", "exit"} == kinds - {"telemetry", "footer"}
    (run,) = [record.run for record in records(path) if record.HasField("run")]
    assert ("", "", "", "") == (run.host, run.git.remote_url, run.git.commit, run.entity)
    config = {item.key: item.value_json for it in records(path) if it.HasField("config") for item in it.config.update}
    assert {"optim.lr": '"1"', "uid": '"uid-1"', "attempt": "1"} == config


def test_everything_is_written_below_the_folder_and_no_secret_with_it(tmp_path: Path):
    ended = attempt(tmp_path, "1", "10", WANDB_MODE="offline")
    assert 0 == ended.returncode, ended.stderr

    assert [] == [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    files = [path for path in (tmp_path / "sinks").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in ended.stdout + ended.stderr
    assert not [path for path in files if path.name in ("requirements.txt", "wandb-metadata.json", "output.log")]


def test_without_a_key_it_says_what_to_set(tmp_path: Path):
    ended = attempt(tmp_path, "1", "10", WANDB_API_KEY="", WANDB_MODE="online")

    assert "SinkUnusable" in ended.stderr
    assert "set WANDB_API_KEY, or WANDB_MODE=offline" in ended.stderr


RETRIED = """
import os, sys
from pathlib import Path
from sam3ft_trainer.run.sinks import wandb_sink
from sam3ft_trainer.run.sinks.sink import Point, SinkContext
from sam3ft_trainer.run.sinks.variables import prepare_environment
folder = Path(sys.argv[1]) / "wandb"
folder.mkdir(parents=True)
prepare_environment(("wandb",), os.environ, folder.parent)
wandb_sink.INIT_TIMEOUT_S = 1.0
sink = wandb_sink.WandbSink()
context = SinkContext("blood", "uid-1", "KEY", 1, "cells", folder)
try:
    sink.open(context)
except wandb_sink.SinkUnusable:
    raise
except Exception as error:
    print(error)
os.environ["WANDB_MODE"] = "offline"
sink.open(context)
sink.scalars(Point(10, 1_764_000_000.0, {"train/loss": 1.5}))
sink.close(is_complete=True)
sys.stdout.flush()
os._exit(0)
""".replace("KEY", KEY)


def test_a_try_that_found_nobody_does_not_stand_in_the_way_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "ATTEMPT", RETRIED)

    ended = attempt(tmp_path, WANDB_BASE_URL="http://127.0.0.1:9")

    assert 0 == ended.returncode, ended.stderr
    assert "connection refused" in ended.stdout
    assert [{"step": 10, "train/loss": 1.5}] in histories(tmp_path)
