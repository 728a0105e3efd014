"""A run that has failed for good on one node leaves it, where the partition has others."""

import re

from slurm_runs import Runs
from slurm_site import SlurmSite

from sam3ft_launch.backend import RunState


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


def word_of(name: str, line: str) -> str:
    found = re.search(rf"(?<!\S){name}=(\S*)", line)
    assert found is not None, line
    return found[1]
