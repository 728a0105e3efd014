"""The trainer's verbs as processes: what people and scripts call, with its output and exit code."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import Sam3Model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = [
    "model.uri=preset:tiny-nano",
    "scratch.resolution=28",
    "scratch.precision=fp32",
    "scratch.max_steps=2",
    "runtime.device=cpu",
    "runtime.threads=1",
    "runtime.tensorboard=false",
    "evaluation.baseline=false",
    "optim.ema_decay=0.5",
]


def call(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sam3ft_trainer", *words],
        check=False,
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def document_of(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON document of a verb that ended well."""
    assert 0 == ended.returncode, ended.stderr
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in `run/`, on three images of train and one of test."""
    root = tmp_path_factory.mktemp("site")
    for split, count in (("train", 3), ("test", 1)):
        folder = root / "data" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            Image.new("RGB", (56, 56), (40 * number, 90, 10)).save(folder / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 56, "height": 56})
            annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 30, 20]})
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        (folder / "_annotations.coco.json").write_text(json.dumps(document))
    ended = call("train", "--work-dir", "run", f"data.uri={root / 'data'}", "data.holdout=0.4", *CONFIG, folder=root)
    assert 0 == ended.returncode, ended.stderr
    return root


def test_plan_says_what_the_run_would_do(site: Path):
    document = document_of(call("plan", "--config", "run/config.json", "-o", "json", folder=site))

    assert ("detection", 2, "steps") == (
        document["task"],
        document["updates"]["expected_steps"],
        document["updates"]["ends_by"],
    )


def test_eval_repeats_the_final_scores_of_the_run(site: Path):
    final = json.loads((site / "run" / "scores.json").read_text())

    words = ["--config", "run/config.json", "--step", str(final["chosen"]["step"]), "--control"]
    document = document_of(call("eval", *words, "-o", "json", folder=site))

    assert final["final"]["metrics"] == document["metrics"]
    assert final["final"]["per_class"] == document["per_class"]


def test_export_writes_a_folder_that_eval_and_transformers_load(site: Path):
    words = ["--config", "run/config.json", "--step", "2"]
    document = document_of(call("export", *words, "--to", "model", "-o", "json", folder=site))

    assert (str(site / "model"), 2) == (document["address"], document["step"])
    assert 0 < sum(parameter.numel() for parameter in Sam3Model.from_pretrained(site / "model").parameters())
    of_folder, of_commit = (
        document_of(call("eval", "--config", "run/config.json", *which, "-o", "json", folder=site))
        for which in (("--model", "model"), ("--step", "2"))
    )
    assert of_commit["metrics"] == of_folder["metrics"]


class GatedHandler(BaseHTTPRequestHandler):
    """A Hub whose only repository is gated."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def gated_hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), GatedHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_of_a_gated_repository_says_what_to_do_and_leaves_nothing(gated_hub: str, tmp_path: Path):
    ended = call("fetch", "hf://org/name", "copy", folder=tmp_path, HF_ENDPOINT=gated_hub, HF_HOME=str(tmp_path / "hf"))

    assert (12, "") == (ended.returncode, ended.stdout)
    assert "its licence has to be accepted first" in ended.stderr
    assert "HF_TOKEN" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "copy").exists()


def test_tails_prints_what_is_kept_of_ranks_that_failed_the_newest_last(tmp_path: Path):
    logs = tmp_path / "run/logs"
    logs.mkdir(parents=True)
    (logs / "a1-rank0-20261125T081500123-15.log").write_text("one\n")
    (logs / "a2-rank3-20261125T091500123-killed.log").write_text("two\n")

    text = call("tails", "run", folder=tmp_path)
    newest = document_of(call("tails", "run", "--newest", "1", "-o", "json", folder=tmp_path))
    nowhere = call("tails", "nothing", folder=tmp_path)

    assert [
        "--- attempt 1, rank 0, code 15, 2026-11-25 08:15:00 UTC",
        "one",
        "--- attempt 2, rank 3, killed, 2026-11-25 09:15:00 UTC",
        "two",
    ] == text.stdout.splitlines()
    assert [(2, 3, "killed", "two\n")] == [
        (tail["attempt"], tail["rank"], tail["end"], tail["text"]) for tail in newest["tails"]
    ]
    assert 13 == nowhere.returncode
