"""The verb that makes a run's report, as a process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sam3ft_api.training import TrainingConfig


def ask(*words: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "sam3ft_trainer", "report", *words, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_run_that_goes_on_has_a_report(tmp_path: Path):
    line = {
        "ts": 1.0,
        "event": "train_interval",
        "run": "blood",
        "attempt": 1,
        "step": 10,
        "loss": 2.0,
        "grad_norm": 1.0,
    }
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line | {"step": step}) + "\n" for step in (10, 20)))
    (tmp_path / "settings.json").write_text(TrainingConfig().model_dump_json())

    told = ask(str(tmp_path), "--config", str(tmp_path / "settings.json"), "--to", str(tmp_path / "page.html"))

    assert (0, {"report": str(tmp_path / "page.html")}) == told
    assert "Gradient norm" in (tmp_path / "page.html").read_text()


def test_what_is_no_run_is_refused_in_words(tmp_path: Path):
    code, document = ask(str(tmp_path))
    assert 10 == code
    assert "nothing yet" in document["message"]

    (tmp_path / "events.jsonl").write_text("{}\n")
    (tmp_path / "scores.json").write_text('{"final": 3}')
    code, document = ask(str(tmp_path))
    assert 10 == code
    assert "of another form" in document["message"]


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "events.jsonl").write_text("{}\n")
    code, document = ask(str(tmp_path), "--to", str(tmp_path / "none" / "page.html"))

    assert 13 == code
    assert "cannot be written" in document["message"]
