"""What the agent has kept of its runs' logs, and when."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import Progress
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.agent import kept_logs
from sam3ft_launch.slurm.agent.kept_logs import EVERY_S, KeptLogs, kept_to

TRAINER = """
import json, pathlib, sys
assert sys.argv[1:] == ["keep", "-o", "json"]
asked = json.load(sys.stdin)
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as file:
    file.write(json.dumps(asked["logs"]) + chr(10))
fails = (here / "fails").exists()
print(json.dumps({"logs": [
    {"log": log["log"], "end": log["start"] if fails else pathlib.Path(log["log"]).stat().st_size,
     "problem": "s3 is away" if fails else ""} for log in asked["logs"]]}))
"""


class Bench:
    """Logs that a stand-in of the trainer keeps: the real one needs a store."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 1000.0
        (folder / "trainer.py").write_text(TRAINER)
        self.logs = KeptLogs([sys.executable, str(folder / "trainer.py")], clock=lambda: self.now_s)
        self.live: list[RunDir] = []

    def run(self, name: str, *, address: str | None = "s3://bucket/blood", claimed: bool = True) -> RunDir:
        run = RunDir(self.folder / name)
        run.create()
        config = {"identity": {"name": "blood", "uid": name}, "checkpoint": {"uri": address}}
        run.config.write_text(TrainingConfig.model_validate(config).model_dump_json())
        if claimed:
            run.progress.write_text(Progress(state="training", step=1, total_steps=2).model_dump_json())
        run.log.write_text("one\n")
        self.live.append(run)
        return run

    def tick(self) -> None:
        self.now_s += EVERY_S + 1
        self.logs.tick(self.live)

    def passes(self) -> list[list[dict[str, Any]]]:
        path = self.folder / "asked"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def whole_pass(self) -> None:
        """Let a pass begin and end."""
        self.tick()
        begun_s = time.monotonic()
        while self.logs._pass is not None:
            assert time.monotonic() - begun_s < 60
            time.sleep(0.01)
            self.logs.tick([])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.logs.close()


def test_a_log_is_kept_as_it_grows_and_no_further(bench: Bench):
    run = bench.run("a")
    bench.whole_pass()
    bench.whole_pass()
    run.log.write_text("one\ntwo\n")
    bench.whole_pass()

    address = {"address": "s3://bucket/blood", "profile": "default", "owner": "a", "is_over": False}
    assert [
        [{"log": str(run.log), "start": 0, "look": True, **address}],  # an earlier agent may have kept it
        [{"log": str(run.log), "start": 4, "look": False, **address}],
    ] == bench.passes()
    assert 8 == kept_to(run)


@pytest.mark.parametrize(
    "how", [{"address": None}, {"address": "/scratch/blood"}, {"address": "file:///scratch/blood"}, {"claimed": False}]
)
def test_a_run_without_a_bucket_of_its_own_is_not_kept(bench: Bench, how: dict[str, Any]):
    bench.run("a", **how)
    bench.whole_pass()

    assert [] == bench.passes()


def test_the_end_of_a_log_is_kept_after_the_run_and_then_the_agent_is_done(bench: Bench):
    run = bench.run("a")
    bench.live.clear()
    bench.logs.finish(run)
    bench.tick()
    assert bench.logs.is_busy
    bench.whole_pass()
    bench.whole_pass()

    assert [[True]] == [[log["is_over"] for log in logs] for logs in bench.passes()]
    assert not bench.logs.is_busy


def test_a_store_that_is_away_is_tried_again_and_not_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_logs, "MOST_TRIES", 3)
    run = bench.run("a")
    bench.live.clear()
    bench.logs.finish(run)
    (bench.folder / "fails").touch()
    bench.whole_pass()
    assert 0 == kept_to(run)
    (bench.folder / "fails").unlink()
    bench.whole_pass()
    bench.whole_pass()
    assert 4 == kept_to(run)
    assert [True, True] == [logs[0]["look"] for logs in bench.passes()]

    run.log.write_text("one\ntwo\n")
    bench.logs.finish(run)
    (bench.folder / "fails").touch()
    for _ in range(6):
        bench.whole_pass()
    assert 2 + 3 == len(bench.passes())


def test_where_more_logs_grow_than_fit_into_a_pass_each_has_its_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_logs, "AT_ONCE", 2)
    runs = [bench.run(name) for name in "abc"]
    for number in range(3):
        for run in runs:
            run.log.write_text("one\n" * (number + 1))
        bench.whole_pass()

    owners = [[log["owner"] for log in logs] for logs in bench.passes()]
    assert [["a", "b"], ["c", "a"], ["b", "a"]] == owners


def test_a_trainer_that_dies_is_started_again(bench: Bench, caplog: pytest.LogCaptureFixture):
    run = bench.run("a")
    whole = (bench.folder / "trainer.py").read_text()
    (bench.folder / "trainer.py").write_text("import sys; sys.exit('no obstore')")
    bench.whole_pass()
    assert "logs could not be kept" in caplog.text
    (bench.folder / "trainer.py").write_text(whole)
    bench.whole_pass()

    assert 4 == kept_to(run)


def test_a_trainer_that_hangs_holds_up_nothing_and_is_ended(bench: Bench):
    bench.run("a")
    whole = (bench.folder / "trainer.py").read_text()
    (bench.folder / "trainer.py").write_text("import time; time.sleep(1000)")
    bench.tick()
    hung = bench.logs._pass
    assert hung is not None
    bench.tick()
    assert hung.process.poll() is None
    (bench.folder / "trainer.py").write_text(whole)
    bench.now_s += 400
    bench.tick()

    assert hung.process.poll() is not None
