"""A whole run with warm spares: its weights are those of one without."""

import os
import signal
from pathlib import Path

import pytest
from fault_bench import Bench, make_data
from launcher_site import wait_for

from sam3ft_trainer.run.launcher.spare import READY


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_run_that_goes_on_with_its_spares_ends_with_the_same_weights(tmp_path: Path):
    data = str(make_data(tmp_path / "data"))
    cold = Bench(tmp_path, data, steps=40).run("cold").succeeded()
    bench = Bench(tmp_path, data, steps=40, more={"workers.warmSpares": True})
    process = bench.start("warm")
    work = tmp_path / "warm" / "work"
    logs = work / "logs"
    spares = [logs / f"spare-{place}.log" for place in range(bench.processes)]
    trained = [work / f"launcher/training-{rank}" for rank in range(bench.processes)]
    wait_for(lambda: all(path.exists() for path in trained), what="workers that train")
    trained_s = max(path.stat().st_mtime for path in trained)
    # The first spares became the workers, and had said so in the same files.
    wait_for(lambda: all(_is_ready(log, since_s=trained_s) for log in spares), what="new spares")
    first = int((logs / "rank-0.log").read_text().partition(", pid ")[2].split()[0])
    os.kill(first, signal.SIGKILL)
    output, _ = process.communicate(timeout=600)

    assert process.returncode == 0, output.decode()
    starts = (logs / "rank-0.log").read_text().count("rank 0 of 2, pid")
    assert starts == 2
    assert cold.weights() == (tmp_path / "warm" / "model/model.safetensors").read_bytes()


def _is_ready(log: Path, *, since_s: float) -> bool:
    return log.exists() and log.stat().st_mtime > since_s and READY in log.read_text()
