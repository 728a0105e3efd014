"""What SLURM does to a job: preemption, requeue, time limit, node failure, cancellation; and a scheduler away."""

import os
import signal
import time
from pathlib import Path

import pytest
from slurm_fixtures import running_slurm
from slurm_runs import Runs, fill, folder_of, num_starts, uid_of
from slurm_site import HIGH, SiteSettings, SlurmSite

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.backend import Handle, Observed, RunState
from sam3ft_launch.slurm.settings import SlurmSettings

pytestmark = pytest.mark.slow  # five minutes of mostly waiting: it begins with the first


def test_a_preempted_run_saves_goes_back_into_the_queue_and_goes_on(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("wait end:0")
    runs.until_running(handle)

    fill(slurm_site, partition=HIGH, seconds=2)

    observed = runs.until_over(handle)
    assert (RunState.SUCCEEDED, 1) == (observed.state, observed.restarts)
    assert [ExitCode.INTERRUPTED, ExitCode.SUCCEEDED] == [end.code for end in runs.report(handle).ends]
    assert 1 == runs.num_jobs(handle)


def test_a_preempted_run_saves_where_sigterm_is_all_it_gets(tmp_path: Path):
    with running_slurm(SiteSettings(user_signal=False)) as site:
        runs = Runs(site, tmp_path)
        handle = runs.submit("wait end:0")
        runs.until_running(handle)

        fill(site, partition=HIGH, seconds=2)

        assert RunState.SUCCEEDED is runs.until_over(handle).state
        assert [20, 0] == [end.code for end in runs.report(handle).ends]


def test_a_run_that_an_administrator_requeues_goes_on(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("wait end:0")
    runs.until_running(handle)

    slurm_site.ask(["scontrol", "requeue", runs.job_id(handle)])

    observed = runs.until_over(handle)
    assert RunState.SUCCEEDED is observed.state
    assert 2 == num_starts(handle)


def test_a_time_limit_is_met_with_a_save_and_another_turn(runs: Runs):
    handle = runs.submit("wait end:0", slurm={"time_limit_s": 120}, grace_s=30.0)
    runs.until_running(handle)

    observed = runs.until_over(handle)

    assert RunState.SUCCEEDED is observed.state
    assert [20, 0] == [end.code for end in runs.report(handle).ends]


def test_a_node_that_fails_sends_the_run_back_into_the_queue(tmp_path: Path):
    with running_slurm() as site:
        runs = Runs(site, tmp_path)
        handle = runs.submit("wait end:0")
        node = runs.until_running(handle).node

        site.ask(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"])

        observed = runs.until_over(handle)
        assert RunState.SUCCEEDED is observed.state
        assert 2 == num_starts(handle)


def test_a_run_that_somebody_cancels_with_scancel_saves_and_is_not_begun_again(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("wait")
    runs.until_running(handle)

    slurm_site.ask(["scancel", runs.job_id(handle)])

    observed = runs.until_over(handle)
    assert (RunState.INTERRUPTED, ExitCode.INTERRUPTED) == _end(observed)
    time.sleep(8)  # a requeued job would be eligible after 6 s
    assert 1 == num_starts(handle)


def test_a_run_that_is_cancelled_while_it_waits_never_starts(runs: Runs, slurm_site: SlurmSite):
    fill(slurm_site, partition=HIGH, seconds=6)
    handle = runs.submit("wait")

    runs.backend.cancel(handle, grace_s=60)

    observed = runs.until_over(handle)
    assert (RunState.INTERRUPTED, ExitCode.INTERRUPTED) == _end(observed)
    assert "while no worker ran" in observed.message
    assert 0 == num_starts(handle)
    assert not folder_of(handle).slurm_environment(1).exists()


def test_a_run_that_is_cancelled_before_its_launchers_start_never_trains(slurm_site: SlurmSite, tmp_path: Path):
    runs = Runs(slurm_site, tmp_path, SlurmSettings(poll_s=0.2, setup=("sleep 4",)))
    handle = runs.submit("wait")
    runs.until(handle, lambda seen: seen.reason == "Running")

    runs.backend.cancel(handle, grace_s=60)

    assert (RunState.INTERRUPTED, ExitCode.INTERRUPTED) == _end(runs.until_over(handle))
    assert 0 == num_starts(handle)


def test_a_launcher_that_is_killed_on_one_of_two_nodes_comes_back_there(runs: Runs):
    handle = runs.submit("die:9 end:0", nodes=2)

    assert RunState.SUCCEEDED is runs.until_over(handle).state

    assert [0] == [end.code for end in runs.report(handle).ends]
    assert 2 == len((folder_of(handle).node_work(1) / "starts").read_text().split())


def test_gpus_are_the_launchers_alone(tmp_path: Path):
    gpus = SiteSettings(gpus=2)
    with running_slurm(gpus) as site:
        for kind in ("gpus-per-node", "gres"):
            runs = Runs(site, tmp_path / kind, SlurmSettings(poll_s=0.2, gpus=kind))
            handle = runs.submit("end:0", gpus_per_node=2)

            assert RunState.SUCCEEDED is runs.until_over(handle).state, runs.log(handle)
            assert "2 GPUs" in runs.log(handle)
            runs.close()


def test_a_scheduler_that_is_away_changes_nothing_about_a_run(tmp_path: Path):
    with running_slurm() as site:
        runs = Runs(site, tmp_path)
        handle = runs.submit("wait")
        runs.until_running(handle)

        site.controller.stop()
        for _ in range(2):
            assert RunState.RUNNING is runs.backend.observe(handle).state
        site.controller.start()

        runs.until(handle, lambda _: site.ask(["squeue", "-h"], check=False) != "")
        assert RunState.RUNNING is runs.backend.observe(handle).state
        runs.backend.cancel(handle, grace_s=30)
        assert ExitCode.INTERRUPTED == runs.until_over(handle).exit_code


def test_a_job_that_the_scheduler_has_forgotten_is_known_by_its_own_report(tmp_path: Path):
    with running_slurm(SiteSettings(forget_s=2)) as site:
        runs = Runs(site, tmp_path)
        handle = runs.submit("end:11")

        assert ExitCode.INVALID_DATASET == runs.until_over(handle).exit_code

        give_up_s = time.monotonic() + 60
        while runs.num_jobs(handle) and time.monotonic() < give_up_s:
            time.sleep(1)
        observed = runs.new_backend().observe(handle)
        assert (0, ExitCode.INVALID_DATASET) == (runs.num_jobs(handle), observed.exit_code)
        assert "the script said 11" == observed.message


def test_a_job_that_dies_without_a_word_is_not_taken_for_success(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("wait")
    runs.until_running(handle)

    for pid in slurm_site.job_processes():
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"slurm_script" in command:
            os.kill(pid, signal.SIGKILL)

    observed = runs.until_over(handle)
    assert observed.state in (RunState.FAILED, RunState.INTERRUPTED)
    assert observed.exit_code


def test_what_a_scheduler_has_forgotten_stands_in_its_accounting(tmp_path: Path):
    with running_slurm(SiteSettings(forget_s=2, accounting=True)) as site:
        runs = Runs(site, tmp_path)
        handle = runs.submit("deaf")
        runs.until_running(handle)
        site.ask(["scancel", "--full", "--signal=KILL", runs.job_id(handle)])

        runs.until(handle, lambda _: runs.num_jobs(handle) == 0)

        observed = runs.new_backend().observe(handle)
        assert observed.state in (RunState.FAILED, RunState.INTERRUPTED)
        assert "ended as" in observed.message or "cancelled" in observed.message


def test_a_partition_that_does_not_exist_is_refused_with_slurms_words(runs: Runs):
    with pytest.raises(InvalidConfig, match=r"SLURM refuses the job: .*invalid partition") as refused:
        runs.submit("wait", slurm={"partition": "moon"})

    handle = Handle("slurm", uid_of(runs), 1, str(runs.folder / "runs/cells"))
    observed = runs.backend.observe(handle)
    assert (RunState.FAILED, ExitCode.INVALID_CONFIG, str(refused.value)) == (*_end(observed), observed.message)


def test_munge_that_is_away_is_no_failure_of_the_run(tmp_path: Path):
    with running_slurm() as site:
        runs = Runs(site, tmp_path)
        handle = runs.submit("wait end:0")
        runs.until_running(handle)

        site.munge.stop()
        time.sleep(1)
        assert RunState.RUNNING is runs.backend.observe(handle).state
        site.munge.start()

        site.ask(["scontrol", "requeue", runs.job_id(handle)])
        assert RunState.SUCCEEDED is runs.until_over(handle).state


def test_impossible_requests_are_told_with_what_mends_them(runs: Runs):
    handle = runs.submit("wait", nodes=9)

    observed = runs.until(handle, lambda seen: "cannot start" in seen.message, within_s=30)

    assert RunState.PENDING is observed.state
    assert "lower workers.nodes" in observed.message


def test_a_limit_beyond_the_partitions_is_told(runs: Runs):
    handle = runs.submit("wait", slurm={"time_limit_s": 90 * 60})

    observed = runs.until(handle, lambda seen: "cannot start" in seen.message, within_s=30)

    assert "slurm.timeLimit" in observed.message


def test_the_deadline_of_a_run_ends_it_with_a_save(runs: Runs):
    handle = runs.submit("wait", deadline_s=6.0)

    observed = runs.until_over(handle)

    assert (RunState.INTERRUPTED, ExitCode.INTERRUPTED) == (observed.state, observed.exit_code)
    assert "activeDeadlineSeconds has passed" in runs.log(handle)


def test_two_nodes_are_one_job_with_a_launcher_on_each(runs: Runs):
    handle = runs.submit("end:0", nodes=2)

    assert RunState.SUCCEEDED is runs.until_over(handle).state

    folder = folder_of(handle)
    assert (folder.work / "starts").exists()
    assert (folder.node_work(1) / "starts").exists()
    assert 1 == runs.num_jobs(handle)


def _end(observed: Observed) -> tuple[RunState, int | None]:
    return observed.state, observed.exit_code
