"""Warm spares: processes that wait for an environment on their standard input."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.worker import ENV_CONFIG, ENV_RESULT_FILE, ENV_WORK_DIR, WorkerResult
from sam3ft_trainer.run.launcher.child import ENV_LOG_FILE
from sam3ft_trainer.run.launcher.options import WORKER_MODULE, parse_options
from sam3ft_trainer.run.launcher.spares import SPARE_MODULE, Spares, spare_command

WAITING = "import sys, json; line = sys.stdin.readline(); sys.exit(int(json.loads(line)['CODE']) if line else 9)"


class Bench:
    """Spares that exit with the code in their environment."""

    def __init__(self, folder: Path, program: str = WAITING, *, is_warm: bool = True) -> None:
        self.said: list[str] = []
        self.spares = Spares(
            (sys.executable, "-c", program),
            places=2,
            is_warm=is_warm,
            environment={},
            logs=folder,
            say=self.said.append,
        )

    def fill(self) -> None:
        self.spares.refill_at(10.0)
        self.spares.tick(now_s=10.0)

    def tick_until_said(self) -> None:
        deadline = time.monotonic() + 10
        while not self.said and time.monotonic() < deadline:
            self.spares.tick(now_s=11.0)
            time.sleep(0.01)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.spares.close()


def test_spares_are_started_when_it_is_time_and_once(bench: Bench):
    bench.spares.refill_at(10.0)
    bench.spares.tick(now_s=9.9)
    assert bench.spares.pids == set()

    bench.spares.tick(now_s=10.0)
    first = bench.spares.pids
    bench.spares.tick(now_s=20.0)

    assert len(first) == 2
    assert first == bench.spares.pids


def test_spares_are_started_sooner_when_the_workers_train(bench: Bench):
    training: list[int] = []
    bench.spares.refill_at(60.0, sooner=lambda: bool(training))
    bench.spares.tick(now_s=9.9)
    assert bench.spares.pids == set()

    training.append(1)
    bench.spares.tick(now_s=10.0)

    assert len(bench.spares.pids) == 2


def test_spares_do_not_wait_for_ever_for_workers_that_never_say_that_they_train(bench: Bench):
    bench.spares.refill_at(60.0, sooner=lambda: False)
    bench.spares.tick(now_s=60.0)

    assert len(bench.spares.pids) == 2


@pytest.mark.parametrize("is_warm", [True, False])
def test_spares_beside_workers_that_train_are_warm_ones_alone(tmp_path: Path, *, is_warm: bool):
    bench = Bench(tmp_path, is_warm=is_warm)
    bench.fill()
    bench.spares.round_started(now_s=20.0, sooner=lambda: True)
    waited = len(bench.spares.pids)
    bench.spares.tick(now_s=21.0)

    assert (waited, len(bench.spares.pids)) == ((2, 2) if is_warm else (0, 0))
    bench.spares.close()


def test_each_spare_gets_its_own_environment_in_order(bench: Bench):
    bench.fill()
    taken = bench.spares.take([{"CODE": "3"}, {"CODE": "4"}])

    assert taken is not None
    assert [process.wait(10) for process in taken] == [3, 4]
    assert bench.spares.pids == set()
    assert bench.spares.take([{"CODE": "3"}, {"CODE": "4"}]) is None


def test_without_all_spares_none_is_taken(bench: Bench):
    bench.fill()
    lost = min(bench.spares.pids)
    os.kill(lost, 9)
    os.waitid(os.P_PID, lost, os.WEXITED | os.WNOWAIT)

    assert bench.spares.take([{"CODE": "3"}, {"CODE": "4"}]) is None
    bench.spares.tick(now_s=11.0)
    assert len(bench.spares.pids) == 1
    assert "was killed" in bench.said[0]
    bench.fill()
    assert len(bench.spares.pids) == 2


def test_a_spare_that_cannot_import_is_told_and_not_tried_again_at_once(tmp_path: Path):
    bench = Bench(tmp_path, "raise ImportError('no such library')")
    bench.fill()
    bench.tick_until_said()

    assert "ended with 1" in bench.said[0]
    assert "spare-" in bench.said[0]
    bench.spares.close()


def test_an_import_that_fails_is_told_by_the_worker_as_without_a_spare(tmp_path: Path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcuda.so.1 is missing')")
    config, result = tmp_path / "config.json", tmp_path / "result.json"
    config.write_text("{}")
    place = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        ENV_LOG_FILE: str(tmp_path / "rank-0.log"),
        ENV_WORK_DIR: str(tmp_path),
        ENV_CONFIG: str(config),
        ENV_RESULT_FILE: str(result),
    }
    words = [sys.executable, "-m", SPARE_MODULE, "-m", WORKER_MODULE]

    ended = subprocess.run(words, input=json.dumps(place) + "\n", env=place, text=True, check=False, timeout=60)

    word = WorkerResult.model_validate_json(result.read_bytes())
    assert (ended.returncode, word.code) == (ExitCode.INTERNAL_ERROR, ExitCode.INTERNAL_ERROR)
    assert word.message == "ImportError: libcuda.so.1 is missing"
    assert "libcuda.so.1 is missing" in (tmp_path / "rank-0.log").read_text()


def test_an_environment_that_might_not_fit_the_pipe_means_a_new_start(bench: Bench):
    bench.fill()

    assert bench.spares.take([{"CODE": "3", "LONG": "x" * 70_000}, {"CODE": "4"}]) is None
    assert len(bench.spares.pids) == 2


def test_closing_kills_those_that_wait(bench: Bench):
    bench.fill()
    pids = bench.spares.pids
    bench.spares.close()

    assert [False, False] == [Path(f"/proc/{pid}").exists() for pid in pids]


def test_a_module_or_a_file_can_be_kept_warm():
    module = "sam3ft_trainer.run.launcher.spare"

    assert spare_command(("/v/bin/python", "-m", "a.b", "x")) == ("/v/bin/python", "-m", module, "-m", "a.b", "x")
    assert spare_command(("python3.11", "train.py", "-x")) == ("python3.11", "-m", module, "train.py", "-x")


@pytest.mark.parametrize("command", [("sleep", "9"), ("python", "-c", "pass"), ("python", "-S", "t.py"), ("python",)])
def test_other_commands_cannot_be_kept_warm(command: tuple[str, ...]):
    with pytest.raises(InvalidConfig, match="--warm-spares needs workers"):
        spare_command(command)


def test_spares_are_an_option_and_off_by_default():
    needed = ["--config", "c.json", "--work-dir", "w", "--coordinator", "h:1"]

    assert not parse_options(needed).warm_spares
    assert parse_options([*needed, "--warm-spares"]).warm_spares
