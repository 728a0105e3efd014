"""The demo as the README has it: ten minutes, and a model that looks at its images."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_the_demo_finds_cells_within_ten_minutes(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("sam3ft")), "run", str(ROOT / "examples" / "blood-cells.yaml")]
    started = time.monotonic()

    ended = subprocess.run([*command, "--run-dir", str(tmp_path / "run")], check=False, timeout=1100)

    seconds = time.monotonic() - started
    metrics = json.loads((tmp_path / "run" / "work" / "scores.json").read_text())["final"]["metrics"]
    print(f"{seconds:.0f} s, {metrics}")
    assert ended.returncode == 0
    assert seconds < 600
    assert metrics["bbox_AP50"] >= 0.15
    assert metrics["bbox_AP50"] >= 2 * metrics["control_bbox_AP50"]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "work" / "report.html").is_file()
