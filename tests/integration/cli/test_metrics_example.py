"""The example of docs/metrics.md, executed with the real trainer: what is scraped is what the run says of itself."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from metrics_bench import Samples, scraped

from sam3ft_api.worker import Progress
from sam3ft_launch.coordinator.exposition import KEPT_S

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/metrics.md").read_text()
SETTINGS = (
    "training.maxDuration=null",
    "training.maxSteps=100000",
    "training.resolution=28",
    "model.uri=preset:tiny-nano",
    "checkpoint.everySteps=5",
    "evaluation.baseline=false",
)
"""A run that trains within seconds of its start, and until it is cancelled."""


class Shell:
    """A folder in which the example can be executed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "examples").symlink_to(ROOT / "examples")
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def __call__(self, script: str) -> str:
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert 0 == ended.returncode, ended.stderr
        return ended.stdout

    def progress(self) -> Progress | None:
        path = self.folder / "runs/blood-cells/work/progress.json"
        return Progress.model_validate_json(path.read_bytes()) if path.exists() else None


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """The folder; the run is cancelled in the end."""
    shell = Shell(tmp_path)
    yield shell
    shell("sam3ft cancel blood-cells")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_shows_what_the_real_trainer_says(shell: Shell) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    start, look = script.split("\n", 1)
    shell(" ".join([start, *(f"--set {setting}" for setting in SETTINGS)]))
    give_up_s = time.monotonic() + 600
    while (progress := shell.progress()) is None or progress.loss is None or progress.images_per_s is None:
        assert time.monotonic() < give_up_s
        time.sleep(0.2)
    time.sleep(2 + KEPT_S)  # relayed once a second, and kept for another

    before = shell.progress()
    found = scraped(shell(look))
    time.sleep(2)
    after = shell.progress()
    check(found, before, after)
    (sample,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert set(scraped(sample)) <= set(found)
    assert "report.html" in json.loads(shell("sam3ft report blood-cells --to report.html -o json"))["report"]
    page = (shell.folder / "report.html").read_text()
    for title in ("Loss", "Gradient norm", "Images per second", "Where the time goes"):
        assert f"<h3>{title}</h3>" in page


def check(found: Samples, before: Progress | None, after: Progress | None) -> None:
    """The scrape was relayed up to two seconds before it was made."""
    assert before is not None
    assert after is not None
    assert 0 < found["sam3ft_train_step", ()] <= after.step
    assert 0 < found["sam3ft_train_steps_total", ()] <= after.step
    assert found["sam3ft_train_steps_total", ()] == found["sam3ft_train_step", ()]
    assert (100000.0, 1.0) == (found["sam3ft_train_planned_steps", ()], found["sam3ft_train_world_size", ()])
    assert found["sam3ft_train_epoch", ()] <= after.epoch
    assert abs(found["sam3ft_train_last_step_timestamp_seconds", ()] - (before.last_step_unix_s or 0)) < 10
    assert found["sam3ft_train_checkpoint_step", ()] <= (after.checkpoint_step or 0)
    assert 0 < time.time() - found["sam3ft_train_checkpoint_timestamp_seconds", ()] < 600
