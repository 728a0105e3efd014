"""A whole run of the real trainer on a real SLURM site: two nodes, preempted on the way, resumed, exported."""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_bench import Cli, json_lines
from slurm_fixtures import running_slurm
from slurm_runs import commits_of, fill
from slurm_site import HIGH, SiteSettings

EXAMPLE = Path(__file__).parents[3] / "examples/blood-cells.yaml"
SETTINGS = (
    "training.epochs=null",
    "training.maxSteps=12",
    "training.resolution=28",
    "model.uri=preset:tiny-nano",
    "checkpoint.everySteps=4",
    "evaluation.baseline=false",
    "workers.nodes=2",
    "workers.gpusPerNode=0",
)


def command(*words: str) -> Sequence[str]:
    settings = (word for setting in SETTINGS for word in ("--set", setting))
    return [*words, str(EXAMPLE), "--backend", "slurm", *settings]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_preempted_run_goes_on_without_losing_a_committed_step(tmp_path: Path):
    with running_slurm(SiteSettings(grace_s=60)) as site:
        settings = tmp_path / "slurm.yaml"
        settings.write_text("poll_s: 0.5\n")
        cli = Cli(tmp_path, {**site.environ, "SAM3FT_SLURM_SETTINGS": str(settings)})
        process = cli.start(*command("run"), "-o", "json")
        events = tmp_path / "runs/blood-cells/work/events.jsonl"
        until_written(events, '"checkpoint_committed"', process)

        fill(site, partition=HIGH, seconds=2)

        stdout, stderr = process.communicate(timeout=600)
        log = (tmp_path / "runs/blood-cells/work/run.log").read_text()
        assert (0, "") == (process.returncode, stderr), log
        told = json_lines(stdout)
        ended = told[-1]
        assert [] != [line for line in told if line["event"] == "notice" and "workers are starting" in line["message"]]
        assert ("ended", 12) == (ended["event"], ended["step"])
        assert "test" == ended["scores"]["final"]["split"]
        status = json.loads(cli("status", "-o", "json").stdout)
        assert ["Interrupted"] == [end["reason"] for end in status["ends"]]
        assert is_continued(events)
        assert "Sam3" in json.loads((tmp_path / "runs/blood-cells/model/config.json").read_text())["architectures"][0]
        assert "blood-cells is Succeeded" in cli("explain").stdout
        assert "rank 0 of 2" in cli("logs", "--lines", "10000").stdout


def until_written(path: Path, words: str, process: "subprocess.Popen[str]") -> None:
    give_up_s = time.monotonic() + 600
    while not (path.exists() and words in path.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_s
        time.sleep(0.1)


def is_continued(events: Path) -> bool:
    """Tell whether every start after the first began at the newest commit, and the steps went on from there."""
    told = json_lines(events.read_text())
    starts = sum(event["event"] == "resumed" for event in told)
    return starts == 1 and commits_of(told)[-1] == 12
