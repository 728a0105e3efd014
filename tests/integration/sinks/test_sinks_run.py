"""Whole runs: sinks that find nobody cost nothing but their curves, and what is lost is told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from collector import collecting
from PIL import Image

from sam3ft_api.log_lines import LogLine
from sam3ft_api.worker import Progress, SinkFigures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SECRETS = ("c4nary0123456789012345678901234567890123", "c4nary-token", "c4nary-header")
SETTINGS = [
    "model.uri=preset:tiny-nano",
    "scratch.resolution=28",
    "scratch.precision=fp32",
    "scratch.max_steps=4",
    "runtime.device=cpu",
    "runtime.threads=1",
    "runtime.tensorboard=false",
    "runtime.log_every=1",
    "evaluation.baseline=true",
    "tracking.sinks=[wandb,mlflow,otlp]",
]
NOBODY = {
    "WANDB_API_KEY": SECRETS[0],
    "WANDB_BASE_URL": "http://127.0.0.1:9",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MLFLOW_TRACKING_TOKEN": SECRETS[1],
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRETS[2]}",
}


def data(folder: Path) -> Path:
    for split, count in (("train", 3), ("valid", 1)):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            Image.new("RGB", (56, 56), (40 * number, 90, 10)).save(folder / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 56, "height": 56})
            annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 30, 20]})
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


def trained(folder: Path, *settings: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own."""
    words = ["train", "--work-dir", "run", f"data.uri={data(folder / 'data')}", *SETTINGS, *settings]
    return subprocess.run(
        [sys.executable, "-m", "sam3ft_trainer", *words],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_a_run_whose_sinks_find_nobody_succeeds_and_counts_what_is_lost(tmp_path: Path):
    ended = trained(tmp_path, **NOBODY)

    assert 0 == ended.returncode, ended.stderr
    work = tmp_path / "run"
    told: list[dict[str, Any]] = [json.loads(line) for line in (work / "events.jsonl").read_text().splitlines()]
    for line in told:
        LogLine.model_validate(line)
    assert "finished" in [line["event"] for line in told]
    assert {"mlflow", "otlp"} <= {line["sink"] for line in told if line["event"] == "sink_failed"}
    (closed,) = [line["sinks"] for line in told if line["event"] == "sinks_closed"]
    progress = Progress.model_validate_json((work / "progress.json").read_bytes())
    assert "finished" == progress.state
    assert progress.figures is not None
    values = closed["otlp"]["lost"]
    assert values > 4 * 3
    assert dict.fromkeys(("wandb", "mlflow", "otlp"), SinkFigures(lost=values)) == progress.figures.sinks
    everything = (
        ended.stdout
        + ended.stderr
        + "".join(
            path.read_text(errors="replace") for path in work.rglob("*") if path.is_file() and path.suffix != ".wandb"
        )
    )
    assert not [secret for secret in SECRETS if secret in everything]


def test_the_same_values_reach_a_sink_that_listens(tmp_path: Path):
    with collecting() as collector:
        address = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address}
        ended = trained(tmp_path, "tracking.sinks=[otlp]", **address)
        assert 0 == ended.returncode, ended.stderr
        points = collector.points()

    told = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in told if line["event"] == "train_interval"]
    assert losses == [value for (name, _), value, _ in points if name == "sam3ft.curve.loss"]
    scores = [
        value
        for line in told
        if line["event"] == "evaluation"
        for value in [line["metrics"].get("bbox_AP")]
        if value is not None
    ]
    series = ("sam3ft.curve.score", (("metric", "bbox_AP"), ("split", "valid")))
    assert scores == [value for name, value, _ in points if name == series]
    (closed,) = [line["sinks"]["otlp"] for line in told if line["event"] == "sinks_closed"]
    steps = sum(name == "sam3ft.curve.step" for (name, _), _, _ in points)
    assert {"sent": len(points) - steps, "lost": 0} == closed
