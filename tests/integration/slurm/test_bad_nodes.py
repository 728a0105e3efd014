"""A run that has failed for good on one node leaves it, where the partition has others."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_fixtures import running_slurm
from slurm_runs import Runs, folder_of
from slurm_site import SiteSettings, SlurmSite
from waiting import wait_for

from sam3ft_launch.backend import Handle, RunState
from sam3ft_launch.slurm.record import read_record
from sam3ft_launch.slurm.settings import SlurmSettings


def test_a_run_that_fails_on_a_node_goes_on_on_another(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("end:1 end:0")

    observed = runs.until_over(handle)

    ends = runs.report(handle).ends
    bad = ends[0].node
    assert bad in slurm_site.node_names
    assert [(1, bad), (0, "")] == [(end.code, end.node) for end in ends]
    assert (RunState.SUCCEEDED, 1) == (observed.state, observed.restarts)
    job = slurm_site.ask(["scontrol", "show", "job", runs.job_id(handle), "--oneliner"])
    assert bad == word_of("ExcNodeList", job)
    assert word_of("NodeList", job) in set(slurm_site.node_names) - {bad}
    assert f"failed on {bad}; it goes on elsewhere" in runs.log(handle)


def test_what_fails_on_a_second_node_as_well_ends_the_run(runs: Runs, slurm_site: SlurmSite):
    handle = runs.submit("end:1")

    observed = runs.until_over(handle)

    assert (RunState.FAILED, 1) == (observed.state, observed.exit_code)
    assert set(slurm_site.node_names) == {end.node for end in runs.report(handle).ends}
    assert 2 == len(runs.report(handle).ends)


@pytest.fixture
def elastic(tmp_path: Path) -> Iterator[Runs]:
    """Runs of which each node is a job of its own, on a site of three nodes."""
    with running_slurm(SiteSettings(nodes=3)) as site:
        runs = Runs(site, tmp_path, SlurmSettings(poll_s=0.2, elastic=True))
        yield runs
        runs.close()


def submit_elastic(runs: Runs, second: str) -> Handle:
    """Submit a run of two nodes, the second of which follows a script of its own."""
    handle = runs.submit("wait", nodes=2, min_nodes=1, env={"SCRIPT_1": second})
    runs.until_running(handle)
    return handle


def second_job(runs: Runs, handle: Handle) -> str:
    record = read_record(folder_of(handle).slurm)
    assert record is not None
    return runs.site.ask(["scontrol", "show", "job", record.node_jobs[0].job_id, "--oneliner"])


def test_another_node_s_job_leaves_a_node_on_which_it_fails_and_the_others_go_on(elastic: Runs):
    handle = submit_elastic(elastic, "end:1 wait")
    starts = folder_of(handle).node_work(1) / "starts"
    wait_for("a start elsewhere", lambda: starts.exists() and len(starts.read_text().split()) == 2, within_s=60)

    job = second_job(elastic, handle)
    bad = word_of("ExcNodeList", job)
    assert bad in elastic.site.node_names
    assert ("RUNNING", "1") == (word_of("JobState", job), word_of("Restarts", job))
    assert word_of("NodeList", job) in set(elastic.site.node_names) - {bad}
    assert RunState.RUNNING is elastic.backend.observe(handle).state
    assert not folder_of(handle).empty_place(1, 1).exists()


def test_a_place_that_fails_on_every_node_but_the_first_one_s_stays_empty_and_the_first_node_goes_on(elastic: Runs):
    handle = submit_elastic(elastic, "end:1")
    wait_for("the place to be given up", folder_of(handle).empty_place(1, 1).exists, within_s=90)

    assert set(word_of("ExcNodeList", second_job(elastic, handle)).split(",")) < set(elastic.site.node_names)
    observed = elastic.backend.observe(handle)
    assert RunState.RUNNING is observed.state
    assert "node 1 is missing: its job has failed" in observed.message
    assert Path(observed.message.rpartition("see ")[2]).read_text().count("the workers have failed on") == 2


def word_of(name: str, line: str) -> str:
    found = re.search(rf"(?<!\S){name}=(\S*)", line)
    assert found is not None, line
    return found[1]
