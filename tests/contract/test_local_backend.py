"""What the local backend promises beyond the contract: real processes, real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from backend_bench import FAKE_LAUNCHER, Bench, local_bench

from sam3ft_api.errors import Fenced, StorageDenied
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.worker import ENV_TOKEN
from sam3ft_launch.backend import Handle, RunState, TransientError
from sam3ft_launch.local.backend import LocalBackend
from sam3ft_launch.local.process import identify, is_alive
from sam3ft_launch.local.record import RunRecord, read_record


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = local_bench(tmp_path)
    yield bench
    for handle in bench.handles:
        bench.backend.delete(handle)


def wait_until(holds: Callable[[], object], timeout_s: float = 20.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.02)


def state(bench: Bench, handle: Handle) -> RunState:
    return bench.backend.observe(handle).state


def running(bench: Bench, script: str = "wait") -> tuple[Handle, RunRecord]:
    handle = bench.submit(script)
    wait_until(lambda: state(bench, handle) is RunState.RUNNING)
    record = read_record(Path(handle.location) / "run.json")
    assert record is not None
    return handle, record


def test_killing_the_supervisor_ends_launcher_and_coordinator_and_is_seen_as_gone(bench: Bench):
    handle, record = running(bench)
    coordinator = identify(json.loads((Path(handle.location) / "work/coordinator.json").read_text())["pid"])
    assert record.launcher is not None
    assert coordinator is not None

    os.kill(record.supervisor.pid, signal.SIGKILL)

    wait_until(lambda: not is_alive(record.launcher) and not is_alive(coordinator))  # type: ignore[arg-type]
    observed = bench.backend.observe(handle)
    assert (RunState.GONE, "SupervisorGone") == (observed.state, observed.reason)
    assert "resumes" in observed.message


def test_after_a_kill_the_next_attempt_starts_at_once(bench: Bench):
    _, record = running(bench, "wait end:0")
    os.kill(record.supervisor.pid, signal.SIGKILL)

    second = bench.submit("wait end:0", attempt=2)

    wait_until(lambda: state(bench, second) is RunState.SUCCEEDED)


def test_a_dead_coordinator_is_started_again_at_its_port(bench: Bench):
    handle, _ = running(bench)
    ports = Path(handle.location) / "work/coordinator.json"
    before = json.loads(ports.read_text())

    os.kill(before["pid"], signal.SIGKILL)

    wait_until(lambda: ports.exists() and json.loads(ports.read_text())["pid"] != before["pid"])
    assert before["port"] == json.loads(ports.read_text())["port"]
    assert 1 == bench.num_starts(handle)
    assert state(bench, handle) is RunState.RUNNING


def test_two_submissions_at_once_start_one_run(bench: Bench):
    found: list[Handle] = []
    threads = [Thread(target=lambda: found.append(bench.submit("end:0"))) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found[0] == found[1]
    wait_until(lambda: state(bench, found[0]).is_terminal)
    assert 1 == bench.num_starts(found[0])


def test_another_attempt_is_refused_while_one_runs(bench: Bench):
    running(bench)

    with pytest.raises(Fenced, match="driven by another process"):
        bench.submit("wait", attempt=2)


def test_an_older_attempt_is_refused(bench: Bench):
    bench.submit("end:0", attempt=5)

    with pytest.raises(Fenced, match="attempt 4 of 'cells' is superseded by attempt 5"):
        bench.submit("end:0", attempt=4)


def test_a_folder_of_another_run_is_refused(bench: Bench):
    bench.submit("end:0")

    with pytest.raises(Fenced, match="belongs to the run 'cells'"):
        bench.submit("end:0", uid="somebody-else")


def test_a_record_that_cannot_be_read_is_no_verdict(bench: Bench):
    handle = bench.submit("end:0")
    wait_until(lambda: state(bench, handle).is_terminal)
    record = Path(handle.location) / "run.json"
    text = record.read_text()
    record.write_text("{")

    with pytest.raises(TransientError, match=r"run\.json cannot be read"):
        bench.backend.observe(handle)

    record.write_text(text)


def test_a_place_that_cannot_hold_a_run_folder_is_refused(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    bench = local_bench(tmp_path)

    with pytest.raises(StorageDenied):
        bench.backend.submit(bench.backend.render(bench.plan("wait")))


def test_a_deadline_lets_the_run_save_and_end(bench: Bench):
    handle = bench.submit("wait", deadline_s=0.5)

    wait_until(lambda: state(bench, handle).is_terminal)

    observed = bench.backend.observe(handle)
    assert ExitCode.INTERRUPTED == observed.exit_code
    assert "activeDeadlineSeconds has passed" in observed.message


def test_a_second_cancel_with_less_time_shortens_the_wait(bench: Bench):
    handle, _ = running(bench, "deaf")
    bench.backend.cancel(handle, grace_s=600)

    bench.backend.cancel(handle, grace_s=0)

    wait_until(lambda: state(bench, handle) is RunState.FAILED)
    assert ExitCode.KILLED == bench.backend.observe(handle).exit_code


def test_a_run_that_never_gets_further_ends(bench: Bench):
    handle = bench.submit("die:9", budget={"max_without_progress": 2})

    wait_until(lambda: state(bench, handle).is_terminal)

    observed = bench.backend.observe(handle)
    assert (ExitCode.KILLED, 1) == (observed.exit_code, observed.restarts)
    assert "2 ends in a row without a newer commit" in observed.message


def test_the_token_is_in_no_file_and_on_no_command_line(bench: Bench):
    handle, record = running(bench)
    assert record.launcher is not None
    environment = Path(f"/proc/{record.launcher.pid}/environ").read_text().split("\0")
    token = next(entry.partition("=")[2] for entry in environment if entry.startswith(f"{ENV_TOKEN}="))

    texts = [path.read_text(errors="replace") for path in Path(handle.location).rglob("*") if path.is_file()]
    command = Path(f"/proc/{record.launcher.pid}/cmdline").read_text()

    assert len(token) >= 32
    assert not any(token in text for text in [*texts, command])


@pytest.mark.parametrize("warm_spares", [True, False])
def test_warm_spares_are_the_launcher_s_to_keep(tmp_path: Path, warm_spares: bool):  # noqa: FBT001 - a parameter
    bench = local_bench(tmp_path)
    submission = bench.backend.render(bench.plan("wait", warm_spares=warm_spares))

    assert warm_spares == ("--warm-spares" in submission.launcher_argv("127.0.0.1:1"))


def test_the_submission_shows_the_commands_and_hides_the_token(tmp_path: Path):
    bench = local_bench(tmp_path)
    plan = bench.plan("wait", processes_per_node=2)

    text = str(bench.backend.render(plan))

    folder = tmp_path / "runs/cells"
    coordinator = (
        f"SAM3FT_TOKEN=<random> {sys.executable} -m sam3ft_launch.coordinator --listen 127.0.0.1:0 "
        f"--port-file {folder}/work/coordinator.json --nodes 1 --attempt 1"
    )
    launcher = (
        f"SAM3FT_TOKEN=<random> SCRIPT=wait {sys.executable} {FAKE_LAUNCHER} --config {folder}/config.json "
        f"--work-dir {folder}/work --nproc 2 --coordinator 127.0.0.1:PORT --attempt 1 --max-restarts 10 "
        f"--restart-window-s 3600 --max-without-progress 5 --eviction-grace-s 110 "
        f"--termination-log {folder}/work/termination.json"
    )
    assert [f"# run cells, attempt 1, folder {folder}", coordinator, launcher] == text.splitlines()


ATTACHED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from backend_bench import local_bench
from sam3ft_launch.local.backend import LocalBackend
bench = local_bench(Path(sys.argv[1]))
backend = LocalBackend(Path(sys.argv[1]) / "runs", detached=False, launcher_command=bench.backend._launcher_command)
print(backend.submit(backend.render(bench.plan("wait"))).location, flush=True)
time.sleep(60)
"""


def test_killing_an_attached_submitter_leaves_nothing_behind(tmp_path: Path):
    words = [sys.executable, "-c", ATTACHED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as submitter:
        assert submitter.stdout is not None
        root = Path(submitter.stdout.readline().strip())
        wait_until((root / "work/progress.json").exists)
        record = read_record(root / "run.json")
        assert record is not None
        assert record.launcher is not None
        launcher = record.launcher

        submitter.kill()

    wait_until(lambda: not is_alive(record.supervisor) and not is_alive(launcher))
    handle = Handle("local", record.uid, record.attempt, str(root))
    LocalBackend(root.parent).delete(handle)
