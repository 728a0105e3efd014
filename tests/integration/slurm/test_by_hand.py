"""The script of a run is plain sbatch, which people can hand in themselves."""

import shlex

from slurm_runs import Runs, fill, folder_of, num_starts
from slurm_site import HIGH, SlurmSite
from waiting import wait_for

from sam3ft_launch.backend import Handle, RunState
from sam3ft_launch.slurm.own_job import job_number
from sam3ft_launch.slurm.record import read_record

FULL_S = 60
WORDS_OF_HEAD = "#     sbatch "
"""What stands before the name of the script in its own first lines."""


def hand_in(runs: Runs, site: SlurmSite, handle: Handle) -> str:
    """Do what the script's first lines say, and return the number of the job."""
    folder = folder_of(handle).root
    lines = (folder / "attempt-1.sbatch").read_text().splitlines()
    (told,) = (line for line in lines if line.startswith(WORDS_OF_HEAD))
    words = shlex.split(told.removeprefix("#"))
    return site.ask([words[0], f"--chdir={folder}", "--parsable", str(folder / words[1])]).strip()


def handed_in_again(runs: Runs, site: SlurmSite, script: str) -> Handle:
    """Return a run whose job was cancelled while it waited, and whose script was handed in by hand since."""
    fill(site, partition=HIGH, seconds=FULL_S)
    handle = runs.submit(script)
    lost = runs.job_id(handle)
    assert "PENDING" == site.ask(["squeue", "-h", "-j", lost, "-o", "%T"]).strip()
    site.ask(["scancel", lost])
    assert lost != hand_in(runs, site, handle)
    site.ask(["scancel", "--name", f"fill-{FULL_S}.sh"])
    return handle


def test_a_script_that_is_handed_in_by_hand_runs_as_any_other(runs: Runs, slurm_site: SlurmSite):
    handle = handed_in_again(runs, slurm_site, "end:0")

    assert RunState.SUCCEEDED is runs.until_over(handle).state
    assert 1 == num_starts(handle)


def test_a_job_by_hand_that_goes_back_into_the_queue_is_still_the_attempts(runs: Runs, slurm_site: SlurmSite):
    handle = handed_in_again(runs, slurm_site, "wait end:0")
    runs.until_running(handle)
    record = read_record(folder_of(handle).slurm)
    assert record is not None
    number = job_number(folder_of(handle), record)
    assert number != record.job_id

    slurm_site.ask(["scontrol", "requeue", number])

    assert RunState.SUCCEEDED is runs.until_over(handle).state
    assert 2 == num_starts(handle)


def test_a_job_by_hand_is_ended_with_its_run(runs: Runs, slurm_site: SlurmSite):
    handle = handed_in_again(runs, slurm_site, "wait")
    runs.until_running(handle)

    runs.backend.delete(handle)

    assert "" == slurm_site.ask(["squeue", "-h", "--me", "-t", "PD,R"])


def test_a_script_whose_attempt_has_ended_says_what_to_do_and_trains_nothing(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("end:0")
    runs.until_over(handle)

    job = hand_in(runs, slurm_site, handle)

    wait_for("it ends", lambda: not slurm_site.ask(["squeue", "-h", "-j", job, "-t", "PD,R,CG"]), within_s=60)
    assert "attempt 1 has ended; use sam3ft run" in runs.log(handle)
    assert 1 == num_starts(handle)
