"""`kill -9` of a whole run at random moments: rerun each time, it ends as one that was left alone, bit for bit."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_bench import kill_whole_run, make_data

NUM_IMAGES = 12
"""Of which one or two are held out: the windows of three never divide an epoch evenly."""
STEPS = 90
LATEST_KILL_S = 30.0
ATTEMPT_TIMEOUT_S = 600

SPEC = """
apiVersion: sam3ft.dev/v1alpha1
kind: SAM3FineTune
metadata: {{name: killed}}
spec:
  task: detection
  model: {{uri: "preset:tiny-nano"}}
  data: {{uri: {data}}}
  training:
    maxSteps: {steps}
    globalBatchSize: 3
    learningRate: 0.001
    precision: fp32
    resolution: 28
    config:
      runtime: {{threads: 1, micro_batch: 2, trace_samples: true, log_every: 5, tensorboard: false}}
  workers: {{nodes: 1, gpusPerNode: 1}}
  checkpoint: {{everySteps: 4, everySeconds: 600, keepLast: 2}}
  evaluation: {{everyEpochs: 5, baseline: false}}
"""


def start(spec: Path, run_dir: Path, processes: int) -> "subprocess.Popen[bytes]":
    command = [str(Path(sys.executable).with_name("sam3ft")), "run", str(spec), "--run-dir", str(run_dir)]
    return subprocess.Popen(
        [*command, "--nproc", str(processes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"COLUMNS": "200"},
        start_new_session=True,
    )


def run_to_the_end(spec: Path, run_dir: Path, processes: int) -> None:
    process = start(spec, run_dir, processes)
    output, _ = process.communicate(timeout=ATTEMPT_TIMEOUT_S)
    assert process.returncode == 0, output.decode()[-4000:]


def exported_weights(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


def traced(run_dir: Path) -> Iterator[tuple[int, int, int, tuple[int, ...]]]:
    """(rank, step, epoch, image ids) of every line; the last line before a kill may be torn."""
    for path in sorted(run_dir.rglob("samples-rank-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            yield record["rank"], record["step"], record["epoch"], tuple(record["image_ids"])


def assert_each_image_of_each_epoch_once(run_dir: Path, processes: int) -> None:
    used: dict[tuple[int, int], tuple[int, tuple[int, ...]]] = {}
    for rank, step, epoch, ids in traced(run_dir):
        before = used.setdefault((step, rank), (epoch, ids))
        assert before == (epoch, ids), "a step that was done again used other images"
    assert {(step, rank) for step in range(STEPS) for rank in range(processes)} == set(used)
    counts = Counter((epoch, image_id) for epoch, ids in used.values() for image_id in ids)
    assert set(counts.values()) == {1}
    last_epoch = max(epoch for epoch, _ in used.values())
    images = {image_id for epoch, image_id in counts if epoch == 0}
    for epoch in range(last_epoch):
        assert images == {image_id for other, image_id in counts if other == epoch}


def check_kills(tmp_path: Path, processes: int, kills: int, seed: int) -> None:
    spec = tmp_path / "run.yaml"
    spec.write_text(SPEC.format(data=make_data(tmp_path / "data", NUM_IMAGES), steps=STEPS))
    run_to_the_end(spec, tmp_path / "undisturbed", processes)
    moments = random.Random(seed)
    happened = 0
    for _ in range(kills):
        process = start(spec, tmp_path / "killed", processes)
        time.sleep(moments.uniform(0.5, LATEST_KILL_S))
        happened += process.poll() is None
        kill_whole_run(process)
    run_to_the_end(spec, tmp_path / "killed", processes)

    assert happened > 0
    assert exported_weights(tmp_path / "undisturbed") == exported_weights(tmp_path / "killed")
    assert_each_image_of_each_epoch_once(tmp_path / "undisturbed", processes)
    assert_each_image_of_each_epoch_once(tmp_path / "killed", processes)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_a_run_that_was_killed_ends_bit_identical_to_one_that_was_not(tmp_path: Path, processes: int) -> None:
    check_kills(tmp_path, processes, kills=3, seed=processes)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_change_no_bit(tmp_path: Path, processes: int) -> None:
    check_kills(tmp_path, processes, kills=20, seed=100 + processes)
