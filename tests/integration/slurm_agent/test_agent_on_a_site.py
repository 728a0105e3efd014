"""What a site does to a cluster's run, as its resource shows it: phase, reason, and how it goes on."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_site import AgentSite
from slurm_runs import fill
from slurm_site import HIGH, SiteSettings
from waiting import wait_for

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import FINETUNE

pytestmark = pytest.mark.timeout(600)

OwnSite = Callable[[SiteSettings], AgentSite]


def test_a_preempted_run_waits_in_the_queue_and_goes_on_as_the_same_attempt(site: AgentSite):
    site.agent()
    uid = site.submit("blood", "wait end:0")
    site.wait_for_phase("blood", "Running")
    fill(site.slurm, partition=HIGH, seconds=4)
    site.wait_for_condition("blood", "Scheduled", "False", "RequeueDelay")
    status = site.wait_for_phase("blood", "Succeeded")["status"]
    assert ([1], 1) == ([attempt["n"] for attempt in status["attempts"]], len(site.jobs(uid)))
    assert status["slurm"]["restarts"] == 1


def test_a_scheduler_that_is_away_is_told_and_the_run_goes_on(own_site: OwnSite):
    site = own_site(SiteSettings())
    site.agent()
    site.submit("blood", "wait")
    site.wait_for_phase("blood", "Running")
    site.slurm.controller.stop()
    site.wait_for_condition("blood", "BackendReachable", "False", "SchedulerSilent")
    assert "Running" == site.resource("blood")["status"]["phase"]
    site.slurm.controller.start()
    site.wait_for_condition("blood", "BackendReachable", "True")
    assert "Running" == site.resource("blood")["status"]["phase"]


def test_a_job_that_the_scheduler_has_forgotten_has_left_its_word(own_site: OwnSite):
    site = own_site(SiteSettings(forget_s=3))
    agent = site.agent()
    uid = site.submit("blood", "end:0")
    site.wait_for_job(uid, "RUNNING")
    agent.kill()
    wait_for("the job is forgotten", lambda: not site.jobs(uid), within_s=200)
    site.agent()
    site.wait_for_phase("blood", "Succeeded")


@pytest.mark.soak  # two minutes of waiting; `test_slurm_attempt` has the same without a site
def test_a_job_that_died_while_nobody_looked_is_lost_and_a_fresh_one_goes_on(own_site: OwnSite):
    site = own_site(SiteSettings(forget_s=3))
    agent = site.agent()
    uid = site.submit("blood", "deaf end:0")
    site.wait_for_phase("blood", "Running")
    agent.kill()
    # Neither script nor launcher has a chance to leave a word.
    site.slurm.ask(["scancel", "--full", "--signal=KILL", site.jobs(uid)[0].job_id])
    wait_for("the job is forgotten", lambda: not site.jobs(uid), within_s=200)
    site.agent()
    status = site.wait_for_phase("blood", "Succeeded", within_s=100)["status"]
    assert ["JobLost", "Succeeded"] == [attempt["reason"] for attempt in status["attempts"]]


def test_what_a_resource_names_is_refused_or_taken_literally_and_never_executed(site: AgentSite, tmp_path: Path):
    mark = tmp_path / "executed"
    hostile = [
        f"/data/$(touch {mark})",
        f"/data/`touch {mark}`",
        f"/data/a b,c'd;touch {mark}",
        f'/data/"; touch {mark} #',
    ]
    site.agent()
    accepted = []
    for number, uri in enumerate(hostile):
        try:
            site.submit(f"run-{number}", "end:0", data={"uri": uri}, export={"uri": uri})
        except ApiProblem as refusal:
            if refusal.code != 422:
                raise
        else:
            accepted.append(f"run-{number}")
    for name in accepted:
        site.wait_for_phase(name, "Succeeded")
    print(f"of {len(hostile)} addresses {len(accepted)} were taken literally, the others refused")
    assert not mark.exists()


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_deleted_resource_is_gone_by_the_deadline_though_its_agent_is_away(site: AgentSite):
    agent = site.agent()
    uid = site.submit("blood", "deaf")
    site.wait_for_phase("blood", "Running")
    agent.kill()
    site.api.delete(FINETUNE, site.namespace, "blood")
    begun_s = time.monotonic()
    site.wait_until_deleted("blood", within_s=660)
    assert time.monotonic() - begun_s >= 590
    site.agent()
    site.wait_for_job(uid, "CANCELLED")
