"""One whole run of the real trainer through the command: checked, killed, resumed, scored, exported, reported."""

import json
import signal
import time
from pathlib import Path

import pytest
from cli_bench import Cli, json_lines

EXAMPLE = Path(__file__).parents[3] / "examples/blood-cells.yaml"
SETTINGS = (
    "training.epochs=null",
    "training.maxSteps=6",
    "training.resolution=28",
    "model.uri=preset:tiny-nano",
    "checkpoint.everySteps=2",
    "evaluation.baseline=false",
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_trainer_is_killed_goes_on_and_hands_over_a_model(tmp_path: Path):
    words = ["run", str(EXAMPLE), "-o", "json", *(word for setting in SETTINGS for word in ("--set", setting))]
    cli = Cli(tmp_path)
    process = cli.start(*words)
    events = tmp_path / "runs/blood-cells/work/events.jsonl"
    give_up_at = time.monotonic() + 600
    while not (events.exists() and '"checkpoint_committed"' in events.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    with cli.start(*words) as again:
        stdout, stderr = again.communicate(timeout=600)

    assert (0, "") == (again.returncode, stderr)
    ended = json_lines(stdout)[-1]
    assert ("ended", 6) == (ended["event"], ended["step"])
    assert {"report", "model", "checkpoints"} <= set(ended["places"])
    assert "test" == ended["scores"]["final"]["split"]
    assert "Sam3" in json.loads((tmp_path / "runs/blood-cells/model/config.json").read_text())["architectures"][0]
