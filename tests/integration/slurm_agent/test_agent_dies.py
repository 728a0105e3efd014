"""Whatever moment of a submission the agent dies at, the next one finds its job: one job an attempt, never two."""

import signal

import pytest
from agent_site import DYING, AgentSite

from sam3ft_faults.record import Figures
from sam3ft_launch.kubernetes.kinds import FINETUNE

MOMENTS = ("before-intent", "after-intent", "asked", "submitted", "answered", "recorded")

pytestmark = pytest.mark.timeout(600)


def die_and_go_on(site: AgentSite, monkeypatch: pytest.MonkeyPatch, moment: str, name: str) -> None:
    uid = site.submit(name, "end:0")
    monkeypatch.setenv("DIE_AT", moment)
    dying = site.agent(program=DYING)
    assert -signal.SIGKILL == dying.process.wait(200), dying.text()
    living = site.agent()
    site.wait_for_phase(name, "Succeeded")
    assert 1 == len(site.jobs(uid))
    living.kill()
    site.api.delete(FINETUNE, site.namespace, name)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_submission_on_which_the_agent_dies_is_made_once(
    site: AgentSite, monkeypatch: pytest.MonkeyPatch, moment: str
):
    die_and_go_on(site, monkeypatch, moment, "blood")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_200_submissions_on_which_the_agent_dies_are_made_once(
    site: AgentSite, monkeypatch: pytest.MonkeyPatch, figures: Figures
):
    for number in range(200):
        die_and_go_on(site, monkeypatch, MOMENTS[number % len(MOMENTS)], f"run-{number}")
    figures.add("submissions on which the SLURM agent dies", seed="none", kills=200, duplicates=0)
