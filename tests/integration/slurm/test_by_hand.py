"""The script of a run is plain sbatch, which people can hand in themselves."""

import shlex

from slurm_runs import Runs, fill, folder_of, num_starts
from slurm_site import HIGH, SlurmSite
from waiting import wait_for

from sam3ft_launch.backend import Handle, RunState

WORDS_OF_HEAD = "#     sbatch "
"""What stands before the name of the script in its own first lines."""


def hand_in(runs: Runs, site: SlurmSite, handle: Handle) -> str:
    """Do what the script's first lines say, and return the number of the job."""
    folder = folder_of(handle).root
    lines = (folder / "attempt-1.sbatch").read_text().splitlines()
    (told,) = (line for line in lines if line.startswith(WORDS_OF_HEAD))
    words = shlex.split(told.removeprefix("#"))
    return site.ask([words[0], f"--chdir={folder}", "--parsable", str(folder / words[1])]).strip()


def test_a_script_that_is_handed_in_by_hand_runs_as_any_other(runs: Runs, slurm_site: SlurmSite):
    fill(slurm_site, partition=HIGH, seconds=4)
    handle = runs.submit("end:0")
    lost = runs.job_id(handle)
    slurm_site.ask(["scancel", lost])  # it waited, and never started

    job = hand_in(runs, slurm_site, handle)

    assert RunState.SUCCEEDED is runs.until_over(handle).state
    assert (1, job != lost) == (num_starts(handle), True)


def test_a_script_whose_attempt_has_ended_says_what_to_do_and_trains_nothing(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("end:0")
    runs.until_over(handle)

    job = hand_in(runs, slurm_site, handle)

    wait_for("it ends", lambda: not slurm_site.ask(["squeue", "-h", "-j", job, "-t", "PD,R,CG"]), within_s=60)
    assert "attempt 1 has ended; use sam3ft run" in runs.log(handle)
    assert 1 == num_starts(handle)
