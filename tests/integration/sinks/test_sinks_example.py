"""The example of docs/sinks.md, executed: a run by the command line keeps its curves for W&B in the run folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_file import records

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/sinks.md").read_text()
SETTINGS = (
    "training.maxDuration=null",
    "training.maxSteps=12",
    "training.resolution=28",
    "model.uri=preset:tiny-nano",
    "evaluation.baseline=false",
    "data.uri=small",
)
"""The same run within a minute."""


def few_images(folder: Path) -> None:
    """Four images of the example's training set and two of its test set."""
    for split, count in (("train", 4), ("test", 2)):
        (folder / split).mkdir(parents=True)
        source = ROOT / "examples/blood-cells" / split
        document = json.loads((source / "_annotations.coco.json").read_text())
        document["images"] = document["images"][:count]
        kept = {image["id"] for image in document["images"]}
        document["annotations"] = [note for note in document["annotations"] if note["image_id"] in kept]
        for image in document["images"]:
            shutil.copy(source / image["file_name"], folder / split)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_keeps_the_curves_of_the_run(tmp_path: Path) -> None:
    (script,) = re.findall(r"executed by a test: a run with a sink -->\n\n```sh\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/blood-cells.yaml").write_text((ROOT / "examples/blood-cells.yaml").read_text())
    few_images(tmp_path / "examples/small")
    start, look = script.split("\n", 1)

    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([" ".join([start, *(f"--set {it}" for it in SETTINGS)]), look])],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )

    assert 0 == ended.returncode, ended.stdout[-3000:] + ended.stderr[-3000:]
    closed = json.loads(ended.stdout.splitlines()[-1])
    (path,) = (tmp_path / "runs/blood-cells/work/sinks/wandb").rglob("offline-run-*/*.wandb")
    rows = [record.history for record in records(path) if record.WhichOneof("record_type") == "history"]
    named = [{"/".join(item.nested_key) for item in row.item} for row in rows]
    assert any({"train/loss", "train/grad_norm", "train/lr", "step"} <= names for names in named)
    assert any("test/bbox_AP" in names for names in named)
    sent = sum(name != "step" and not name.startswith("_") for names in named for name in names)
    assert {"wandb": {"sent": sent, "lost": 0}} == closed["sinks"]
