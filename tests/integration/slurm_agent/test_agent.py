"""From `kubectl apply` to a job on a real SLURM site and back, through operator and agent."""

import re
import statistics
import subprocess
import time

import psutil
import pytest
from agent_site import COMMAND, SITE, Agent, AgentSite
from operator_site import conditions
from rights import granted, refused, used
from waiting import wait_for

from sam3ft_api import names
from sam3ft_faults.record import Figures
from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.slurm.agent.enrolment import rules

pytestmark = pytest.mark.timeout(600)


def test_a_run_is_submitted_paused_resumed_and_ends(site: AgentSite):
    site.agent()
    uid = site.submit("blood", "wait end:0", export={"uri": "s3://models/blood"})
    status = site.wait_for_phase("blood", "Running")["status"]
    assert ("3/9", "1/1") == (status["summary"]["step"], status["summary"]["nodes"])
    assert {"images": 3, "annotations": 30, "categories": 1, "problems": 0, "digest": "fake"} == status["dataset"]
    assert (SITE, "RUNNING") == (status["slurm"]["site"], status["slurm"]["state"])

    site.change("blood", suspend=True)
    status = site.wait_for_phase("blood", "Suspended")["status"]
    assert ["Suspended"] == [attempt["reason"] for attempt in status["attempts"]]
    wait_for("the nodes are free", lambda: all(job.state.is_over for job in site.jobs(uid)), within_s=200)

    site.change("blood", suspend=False)
    status = site.wait_for_phase("blood", "Succeeded")["status"]
    assert ["Suspended", "Succeeded"] == [attempt["reason"] for attempt in status["attempts"]]
    assert "s3://models/blood" == status["export"]["uri"]
    assert (1, 1) == (len(site.jobs(uid, 1)), len(site.jobs(uid, 2)))


def test_data_that_is_refused_costs_no_job_and_goes_on_once_it_is_mended(site: AgentSite):
    site.agent()
    site.refuse("blood")
    uid = site.submit("blood", "end:0")
    resource = site.wait_for_phase("blood", "Failed")
    assert "image 7.jpg is missing" in resource["status"]["summary"]["message"]
    assert ("False", "InvalidDataset") == _said(resource, "DatasetReady")
    assert [] == site.jobs(uid)

    site.refuse("blood", is_refused=False)
    site.change("blood", retry=1)
    site.wait_for_phase("blood", "Succeeded")
    assert ([], 1) == (site.jobs(uid, 1), len(site.jobs(uid, 2)))


def test_what_slurm_will_never_start_is_loud_and_explained(site: AgentSite):
    site.agent()
    site.submit("long", "end:0", slurm={"timeLimit": "100h"})
    site.submit("lost", "end:0", slurm={"partition": "none-such"})
    condition = site.wait_for_condition("long", "Degraded", "True", "Unschedulable")
    assert "lower slurm.timeLimit" in condition["message"]
    lost = site.wait_for_phase("lost", "Failed")
    assert "invalid partition" in lost["status"]["summary"]["message"].lower()
    words = ["explain", "long", "-n", site.namespace, "--kubeconfig", str(site.plane.admin_kubeconfig)]
    told = subprocess.run([*COMMAND, *words, "--backend", "kubernetes"], capture_output=True, text=True, check=False)
    assert "lower slurm.timeLimit" in told.stdout, told.stderr


def test_a_deleted_resource_takes_its_job_with_it(site: AgentSite):
    site.agent()
    uid = site.submit("blood", "deaf")
    site.wait_for_phase("blood", "Running")
    site.api.delete(kinds.FINETUNE, site.namespace, "blood")
    site.wait_for_job(uid, "CANCELLED")
    site.wait_until_deleted("blood")


def test_an_agent_that_comes_back_ends_the_job_of_a_resource_that_is_gone(site: AgentSite):
    agent = site.agent()
    uid = site.submit("blood", "deaf")
    site.wait_for_phase("blood", "Running")
    agent.kill()
    site.api.delete(kinds.FINETUNE, site.namespace, "blood")
    waiting = site.resource("blood")
    assert [names.FINALIZER_SLURM] == waiting["metadata"]["finalizers"]
    # As the operator does after ten minutes.
    site.api.patch(kinds.FINETUNE, site.namespace, "blood", {"metadata": {"finalizers": None}}, manager="test")
    site.wait_until_deleted("blood")
    assert "RUNNING" == site.wait_for_job(uid, "RUNNING").word

    site.agent()
    site.wait_for_job(uid, "CANCELLED")


def test_a_job_that_somebody_cancels_ends_the_run_until_it_is_tried_again(site: AgentSite):
    site.agent()
    uid = site.submit("blood", "wait end:0")
    site.wait_for_phase("blood", "Running")
    site.slurm.ask(["scancel", site.wait_for_job(uid, "RUNNING").job_id])
    failed = site.wait_for_phase("blood", "Failed")
    assert ("True", "JobCancelled") == _said(failed, "Failed")
    site.change("blood", retry=1)
    site.wait_for_phase("blood", "Succeeded")


def test_an_agent_that_is_away_changes_nothing_for_the_job(site: AgentSite):
    agent = site.agent()
    site.submit("blood", "wait")
    site.wait_for_phase("blood", "Running")
    assert 0 == agent.terminate()
    site.submit("second", "end:0")
    site.wait_for_phase("second", "Pending")
    assert "Running" == site.resource("blood")["status"]["phase"]
    site.agent()
    site.wait_for_phase("second", "Succeeded")
    assert "Running" == site.resource("blood")["status"]["phase"]


def test_the_agent_may_do_exactly_what_it_does(site: AgentSite):
    site.agent().terminate()
    site.agent("--renew-after", "0")
    site.submit("blood", "end:0")
    site.wait_for_phase("blood", "Succeeded")
    assert 0o600 == site.agent_kubeconfig.stat().st_mode & 0o777
    wait_for("everything has been used", lambda: set() == granted(rules(SITE)) - used(site.plane, user=site.agent_user))
    assert set() == refused(site.plane, user=site.agent_user)


def test_a_token_that_is_not_good_any_more_is_said_and_a_new_one_is_taken_up(site: AgentSite):
    good = site.agent_kubeconfig.read_text()
    site.agent_kubeconfig.write_text(re.sub(r"token: \S+", "token: gone", good))
    agent = site.agent()
    site.submit("blood", "end:0")
    wait_for("it is said", lambda: "slurm-agent enroll --site alps" in agent.text(), within_s=200)
    site.enroll()
    site.wait_for_phase("blood", "Succeeded")
    assert "gone" not in site.agent_kubeconfig.read_text()


def test_a_second_agent_in_the_same_folder_is_refused(site: AgentSite):
    site.agent()
    site.submit("blood", "end:0")
    site.wait_for_phase("blood", "Succeeded")
    second = site.agent()
    assert 21 == second.process.wait(200)
    assert "another agent is at work" in second.text()


def test_many_runs_cost_one_question_a_look(site: AgentSite):
    for number in range(8):
        site.submit(f"run-{number}", "end:0")
    agent = site.agent("-o", "json")
    for number in range(8):
        site.wait_for_phase(f"run-{number}", "Succeeded")
    assert_one_question_a_look(agent)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_500_runs_cost_one_question_a_look(site: AgentSite, figures: Figures):
    for number in range(500):
        site.submit(f"run-{number}", "wait")
    agent = site.agent("-o", "json")

    def num_jobs() -> int:
        time.sleep(2.0)  # a list of 500 resources is much work for the API server, whose answers the agent waits for
        found = site.api.list(kinds.FINETUNE, site.namespace, {})["items"]
        return sum(bool(run.get("status", {}).get("slurm", {}).get("jobId")) for run in found)

    wait_for("every run has a job", lambda: num_jobs() == 500, within_s=1800)
    process = psutil.Process(agent.process.pid)
    begun_s, used = time.monotonic(), process.cpu_times()
    time.sleep(120)
    passed_s, now = time.monotonic() - begun_s, process.cpu_times()
    assert_one_question_a_look(agent)
    cpu_s = now.user + now.system - used.user - used.system
    seconds = [float(text) for text in re.findall(r'"seconds": ([\d.]+)', agent.text())]
    figures.add(
        "runs of one SLURM agent",
        seed="none",
        runs=500,
        squeues_a_look=1,
        cpu_permille=round(1000 * cpu_s / passed_s),
        rss_mib=round(process.memory_info().rss / 2**20),
        milliseconds_a_look=round(1000 * statistics.median(seconds[-20:])),
    )


def assert_one_question_a_look(agent: Agent) -> None:
    ticks = re.findall(r'"squeues": (\d+)', agent.text())
    assert [str(number + 1) for number in range(len(ticks))] == ticks != []


def _said(resource: dict[str, object], type_: str) -> tuple[str, str]:
    found = conditions(resource)[type_]
    return found["status"], found["reason"]
