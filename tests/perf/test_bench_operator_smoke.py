"""`make bench-operator` with twenty runs: that every figure is there, and that nothing is made twice or refused."""

import importlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tools_here import need_tool

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--nodes", "20", "--resources", "20", "--pods", "2", "--failures", "4", "--answering", "5"]
TIMES = ("created_to_check_s", "checked_to_workers_s", "failed_to_status_s")

Bench = Callable[[Sequence[str]], dict[str, Any]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.syspath_prepend(str(ROOT))

    def run(arguments: Sequence[str]) -> dict[str, Any]:
        code = importlib.import_module("benchmarks.operator_scale.__main__").main([*arguments, "-o", "json"])
        told = capsys.readouterr()
        if "make cluster-tools" in told.err or "make components" in told.err:
            need_tool(told.err)
        assert told.out, told.err
        figures: dict[str, Any] = json.loads(told.out)
        return figures | {"code": code, "said": told.err}

    return run


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.operator_scale.report")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.operator_scale.memory")


@pytest.mark.timeout(240)
def test_every_figure_of_a_small_load_is_there(bench: Bench, report: Any, tmp_path: Path) -> None:
    figures = bench([*SMALL, "--rate", "4", "--hostile", "5", "--reconciles", "100"])
    load, document = figures["load"], tmp_path / "figures.md"

    assert [20, 20, 4] == [load[name]["n"] for name in TIMES]
    assert all(0 < load[name]["p50"] <= load[name]["p99"] <= load[name]["max"] for name in TIMES)
    assert load["api_answer_s"]["n"] > 20 * 10
    assert [] == load["duplicates"]
    assert 0 == load["errors"]["403"]
    assert {"409", "429"} <= set(load["errors"])
    assert 2.0 == load["calls_per_run"]["create jobs"]
    assert {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "operator"} <= set(
        load["cores"]
    )
    assert load["operator_peak_mib"] > 30
    assert load["operator_cpu_s"] > 0
    for which in ("alone", "beside"):
        assert [5, 5] == [figures["hostile"][which][name]["n"] for name in TIMES[:2]]
    assert figures["memory"]["looks"] >= 100
    assert math.isfinite(figures["memory"]["slope_kib_per_1000_looks"])

    document.write_text(f"# Benchmarks\n\n{report.HEADING}\n\n{report.NONE_YET}\n\n## The demo\n")
    report.record(figures, document)
    assert 1 == document.read_text().count("resource created to its preflight Job created |")
    assert report.NONE_YET not in document.read_text()
    assert document.read_text().endswith("|\n\n## The demo\n")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_looks_do_not_make_it_grow(bench: Bench) -> None:
    figures = bench(["--nodes", "20", "--resources", "100", "--pods", "1", "--hostile", "0", "--answering", "50"])
    memory = figures["memory"]

    assert memory["looks"] >= 10_000
    assert memory["slope_kib_per_1000_looks"] <= memory["bound_kib_per_1000_looks"], figures["said"]


def test_the_slope_is_that_of_a_straight_line_through_noise(memory: Any) -> None:
    noise = (0.5, -0.5, -0.5, 0.5)
    samples = [memory.Sample(looks=100.0 * n, mib=80 + 0.002 * 100 * n + noise[n % 4]) for n in range(40)]

    assert memory.slope(samples) == pytest.approx(0.002, rel=0.1)
    assert 0.0 == memory.slope(samples[:1])


def test_figures_that_miss_their_mark_are_named(report: Any) -> None:
    times = {"n": 2, "p50": 0.1, "p99": 0.2, "max": 0.2}
    late = times | {"p99": 1.5}
    figures = {
        "load": {"resources": 2, "failures": 2, "duplicates": ["jobs a"], "errors": {"403": 1}}
        | dict.fromkeys(TIMES, times),
        "hostile": {"alone": dict.fromkeys(TIMES[:2], times), "beside": dict.fromkeys(TIMES[:2], late)},
        "memory": {"looks": 9000, "slope_kib_per_1000_looks": 500.0, "bound_kib_per_1000_looks": 64.0},
    }

    missed = report.failures_of(figures, least_looks=5000)

    assert 5 == len(missed)
    assert "created twice" in missed[0]
    assert "forbidden" in missed[1]
    assert "p99 0.200 s alone, 1.500 s beside" in missed[2]
    assert "500.0 KiB" in missed[4]
    assert [] == report.failures_of({"load": figures["load"] | {"duplicates": [], "errors": {"403": 0}}}, least_looks=1)
