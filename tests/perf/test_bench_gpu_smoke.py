"""`make bench-gpu` without a GPU: that it runs where only the model's own libraries are, and what it prints."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["detection-1-b1-none", "detection-8-b2-detr", "segmentation-1-b1-none", "segmentation-8-b1-all"]
# What a bare machine with torch and transformers lacks. A finder that knows nothing of them is how absence looks:
# transformers asks for its optional libraries and must hear "no", not an error.
BARE = """
import os, runpy, sys
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one thread: at this size several only wait for each other
ABSENT = set(sys.argv[1].split(","))
class Without:
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)
    def __getattr__(self, name): return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
try:
    import psutil
except ModuleNotFoundError:
    print("bare")
sys.argv[1:] = sys.argv[2:]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""
ABSENT = (
    "kopf,kubernetes,hydra,omegaconf,obstore,orjson,simplejpeg,xxhash,faster_coco_eval,pycocotools,matplotlib,"
    "tensorboard,psutil,rich,typer,ruamel,sam3ft_launch"
)
SMALL = ["--preset", "tiny-nano", "--resolution", "28", "--device", "cpu", "--objects", "2"]


def run_bare(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("crds", "trainer", "."))
    return subprocess.run(
        [sys.executable, "-c", BARE, ABSENT, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def quick() -> list[str]:
    done = run_bare(*SMALL, "--quick", "--plan", "--peak-tflops", "0.5")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.gpu")


def test_it_runs_without_the_libraries_of_launch_data_and_storage(quick: list[str]) -> None:
    assert quick[0] == "bare"


def test_the_table_has_a_row_for_each_case_in_order(quick: list[str]) -> None:
    header, *rows = quick[2:-1]

    assert header.split() == [
        "case",
        "images/s",
        "ms/step",
        "peak",
        "alloc",
        "reserved",
        "plan",
        "idle",
        "match",
        "syncs",
    ]
    assert [row.split()[0] for row in rows] == QUICK
    assert {len(row) for row in rows} == {len(header)}


def test_the_last_line_holds_the_machine_and_every_figure(quick: list[str]) -> None:
    document = json.loads(quick[-1])

    assert document["preset"] == "tiny-nano"
    assert document["resolution"] == 28
    assert document["peak_tflops"] == 0.5
    assert [row["case"] for row in document["rows"]] == QUICK
    for row in document["rows"]:
        assert row["status"] == "ok"
        assert row["images_per_s"] > 0
        assert row["peak_share"] == pytest.approx(row["tflop"] / row["step_s"] / 0.5)
        assert len(row["idle_s"]) == document["steps"]
        assert 0 < row["idle_share"] < 1
        assert 0 < row["matching_share"] < 1
        assert row["planned_gib"] > 0
        assert row["skipped"] == 0
        assert set(row["host_s"]) == {"data", "agree", "forward", "backward", "optimizer"}


def test_images_per_second_count_the_images_of_a_micro_batch(quick: list[str]) -> None:
    row = json.loads(quick[-1])["rows"][1]

    assert row["images_per_s"] == pytest.approx(2 / row["step_s"])


def test_a_case_without_memory_is_a_row_and_the_next_one_runs_on_freed_memory(
    gpu: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [gpu.Case.parse(name) for name in ("detection-8-b4-none", "detection-1-b1-all")]
    calls = []

    def measure(case: Any) -> dict[str, Any]:
        calls.append(case.name)
        if case.images == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.")
        return dict.fromkeys(("images_per_s", "step_s", "idle_share", "matching_share"), 0.5) | dict.fromkeys(
            ("peak_share", "allocated_gib", "reserved_gib", "planned_gib", "syncs")
        )

    rows = gpu.run_cases(cases, measure, lambda: calls.append("released"))

    assert calls == ["detection-8-b4-none", "released", "detection-1-b1-all", "released"]
    assert [row["status"] for row in rows] == ["out of memory", "ok"]
    assert "out of memory" in capsys.readouterr().out


def test_another_error_of_a_case_is_not_taken_for_a_lack_of_memory(gpu: Any) -> None:
    def measure(_case: Any) -> dict[str, Any]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        gpu.run_cases(gpu.Case.every()[:1], measure, lambda: None)


def test_all_combinations_are_measured_by_default(gpu: Any) -> None:
    names = [case.name for case in gpu.Case.every()]

    assert len(names) == 2 * 2 * 3 * 3
    assert [gpu.Case.parse(name).name for name in names] == names


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA GeForce RTX 4090", 165.0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)
def test_the_peak_goes_by_the_words_of_the_name(gpu: Any, name: str, peak: float | None) -> None:
    assert peak == gpu.peak_by_name(name)


def test_wrong_arguments_end_with_a_sentence_and_the_code_of_a_wrong_setting(
    gpu: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code = gpu.main([*SMALL, "--cases", "detection-1-none"])

    assert code == 10
    assert "'detection-1-none' is no case" in capsys.readouterr().err
