"""The worker processes of one round, with real processes that train nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sam3ft_api.messages import Round
from sam3ft_trainer.run.launcher import workers as module
from sam3ft_trainer.run.launcher.child import ENV_LOG_FILE
from sam3ft_trainer.run.launcher.ends import WorkerEnd
from sam3ft_trainer.run.launcher.files import WorkFolder
from sam3ft_trainer.run.launcher.spares import Spares
from sam3ft_trainer.run.launcher.workers import WorkerPlan, Workers, WorkersSurvive

ROUND = Round(
    round=3, members=("n0", "n1"), node_rank=1, first_rank=2, world_size=4, master_addr="127.0.0.1", master_port=4000
)
SAY_RANK = "import os; print('here is', os.environ['RANK'], os.environ['LOCAL_RANK'], flush=True)"
SLEEP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


class Bench:
    """Workers of the second node, two of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = WorkFolder(folder)
        self.started: list[Workers] = []

    def plan(self, *command: str, spares: Spares | None = None) -> WorkerPlan:
        log = lambda rank, _: {ENV_LOG_FILE: str(self.folder.log_file(rank))}  # noqa: E731 - one line of a plan
        return WorkerPlan(self.folder, log, command, processes=2, run_id="run-1", spares=spares)

    def start(self, program: str) -> Workers:
        self.started.append(Workers(self.plan(sys.executable, "-c", program), ROUND, None))
        return self.started[-1]

    def log(self, rank: int) -> str:
        path = self.folder.log_file(rank)
        return path.read_text() if path.exists() else ""


def until(is_true: Callable[[], object], *, within_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def ended(workers: Workers) -> list[WorkerEnd]:
    until(lambda: workers.poll(now_s=time.monotonic()) and not workers.alive)
    return workers.poll(now_s=time.monotonic())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for workers in bench.started:
        workers.close()


def test_each_worker_knows_its_place_and_writes_to_the_log_of_its_rank(bench: Bench):
    bench.folder.log_file(3).write_text("of an earlier worker\n")
    workers = bench.start(SAY_RANK)
    ends = ended(workers)

    assert [(2, 0, 0), (3, 1, 0)] == [(end.rank, end.local_rank, end.returncode) for end in ends]
    assert "here is 2 0" in bench.log(2)
    assert "here is 3 1" in ends[1].log_tail
    assert "earlier" not in ends[1].log_tail
    assert (0, len("of an earlier worker\n")) == (workers.log_start(0), workers.log_start(1))


def test_an_end_is_noted_while_the_others_run_and_its_children_end_with_it(bench: Bench):
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('child', child.pid, flush=True)\n"
        "time.sleep(60) if os.environ['LOCAL_RANK'] == '0' else os._exit(11)\n"
    )
    workers = bench.start(program)
    until(lambda: workers.poll(now_s=time.monotonic()))

    assert ({0}, 11) == (workers.alive, workers.ends[1].returncode)
    assert 1 == len(workers.pids)
    child = int(bench.log(3).split("child ")[1].split()[0])
    until(lambda: b" Z " in (stat := read_stat(child)) or not stat)


def read_stat(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return b""


def test_a_stop_is_a_sigterm_once(bench: Bench):
    workers = bench.start(SLEEP)
    until(lambda: "up" in bench.log(2) and "up" in bench.log(3))
    workers.stop(force=False)
    workers.stop(force=False)

    assert [-signal.SIGTERM, -signal.SIGTERM] == [end.returncode for end in ended(workers)]


def test_who_does_not_hear_a_sigterm_is_killed_after_its_grace(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.2)
    workers = bench.start(DEAF)
    until(lambda: "up" in bench.log(2) and "up" in bench.log(3))
    workers.stop(force=False)

    assert [-signal.SIGKILL, -signal.SIGKILL] == [end.returncode for end in ended(workers)]


def test_who_is_known_not_to_hear_a_sigterm_is_killed_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAM3FT_SIGNALS_REACH_WORKERS", "1")
    workers = bench.start(SLEEP)
    until(lambda: "up" in bench.log(2) and "up" in bench.log(3))
    workers.stop(force=False)

    assert [-signal.SIGKILL, -signal.SIGKILL] == [end.returncode for end in ended(workers)]


def test_a_worker_that_outlives_sigkill_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    # What hangs in the kernel cannot be made here: the signal is kept from the worker instead.
    workers = bench.start(SLEEP)
    with monkeypatch.context() as patched:
        patched.setattr(module, "signal_session", lambda *_: None)
        workers.stop(force=True)

    assert [] == workers.poll(now_s=time.monotonic())
    with pytest.raises(WorkersSurvive, match="did not end after SIGKILL"):
        workers.poll(now_s=time.monotonic() + 60.0)


def test_a_command_that_does_not_exist_is_told_in_the_log(bench: Bench):
    bench.started.append(Workers(bench.plan("/no/such/program"), ROUND, None))

    assert [1, 1] == [end.returncode for end in ended(bench.started[-1])]
    assert "/no/such/program" in bench.log(2)


def test_when_a_process_cannot_be_started_those_before_it_are_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def once(*arguments: object, **more: object) -> "subprocess.Popen[bytes]":
        if started:
            raise BlockingIOError("no more processes")
        started.append(start(*arguments, **more))  # type: ignore[call-overload]
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", once)
    with pytest.raises(BlockingIOError):
        bench.start(SLEEP)

    assert [-signal.SIGKILL] == [process.returncode for process in started]


def test_waiting_spares_become_the_workers(bench: Bench, tmp_path: Path):
    waiting = "import json, sys, os; os._exit(10 + int(json.loads(sys.stdin.readline())['LOCAL_RANK']))"
    spares = Spares(
        (sys.executable, "-c", waiting), places=2, is_warm=True, environment={}, logs=tmp_path, say=pytest.fail
    )
    spares.refill_at(0.0)
    spares.tick(now_s=1.0)
    bench.started.append(Workers(bench.plan("/no/such/program", spares=spares), ROUND, None))

    assert [10, 11] == [end.returncode for end in ended(bench.started[-1])]
    assert set() == spares.pids


def test_they_train_when_each_of_them_says_so_and_not_by_the_word_of_an_earlier_round(bench: Bench):
    for rank in (2, 3):
        bench.folder.training_file(rank).touch()
    workers = bench.start(SLEEP)
    assert not workers.train()

    bench.folder.training_file(2).touch()
    assert not workers.train()

    bench.folder.training_file(3).touch()
    assert workers.train()


def test_nobody_is_left_after_closing(bench: Bench):
    workers = bench.start(DEAF)
    pids = workers.pids
    workers.close()

    assert 2 == len(pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_s_own_variables_go_before_torchrun_s_and_these_before_the_launcher_s(bench: Bench):
    plan = WorkerPlan(bench.folder, lambda rank, most: {"OWN": f"{rank} {most}"}, ("x",), processes=2, run_id="run-1")
    found = plan.environments(ROUND, 4, {"RANK": "99", "OWN": "no", "PATH": os.defpath})

    assert [("2", "2 4"), ("3", "3 4")] == [(each["RANK"], each["OWN"]) for each in found]
    assert {os.defpath} == {each["PATH"] for each in found}
