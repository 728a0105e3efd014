"""Whatever moment a submission dies at, the next one finds its job: one job an attempt, never two, never none."""

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from slurm_runs import Runs, num_starts

from sam3ft_faults.record import Figures
from sam3ft_launch.backend import Handle, RunState

DYING = Path(__file__).with_name("dying_submit.py")
MOMENTS = ("intent", "asked", "submitted", "answered")


def submit(runs: Runs, moment: str, uid: str) -> int:
    command = [sys.executable, str(DYING), moment, str(runs.folder / "runs"), uid, "end:0"]
    done = subprocess.run(command, env=runs.site.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def die_and_go_on(runs: Runs, moment: str) -> None:
    uid = uuid.uuid4().hex
    assert -signal.SIGKILL == submit(runs, moment, uid)
    assert 0 == submit(runs, "never", uid)
    handle = Handle("slurm", uid, 1, str(runs.folder / "runs/cells"))

    assert RunState.SUCCEEDED is runs.until_over(handle).state
    assert (1, 1) == (runs.num_jobs(handle), num_starts(handle))
    runs.backend.delete(handle)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_submission_that_dies_is_made_once(runs: Runs, moment: str):
    for _ in range(2):
        die_and_go_on(runs, moment)


def test_a_submission_that_dies_twice_is_made_once(runs: Runs):
    uid = uuid.uuid4().hex
    for moment in ("intent", "submitted"):
        assert -signal.SIGKILL == submit(runs, moment, uid)
    submit(runs, "never", uid)
    submit(runs, "never", uid)

    handle = Handle("slurm", uid, 1, str(runs.folder / "runs/cells"))
    assert RunState.SUCCEEDED is runs.until_over(handle).state
    assert (1, 1) == (runs.num_jobs(handle), num_starts(handle))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_200_submissions_that_die_are_made_once(runs: Runs, figures: Figures):
    for number in range(200):
        die_and_go_on(runs, MOMENTS[number % len(MOMENTS)])
    figures.add("submissions to SLURM that die", seed="none", kills=200, duplicates=0)
