"""Runs on a SLURM site: what follows from what its agent tells, and from its silence."""

from typing import Any

import pytest
from decide_bench import START_S, Run, spec_of

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.status import BestStatus, ConditionType, DatasetStatus, Phase, ProgressStatus, SlurmStatus
from sam3ft_operator.decision import Decision, Hold
from sam3ft_operator.observed import AgentView

AGENT = AgentView(silent_s=3.0)
DATASET = DatasetStatus(images=9, annotations=90, categories=1, problems=0, digest="ab")


def slurm_run(**sections: Any) -> Run:
    """Return a run of a site whose agent is there, and whose finalizer is held."""
    run = Run(spec=spec_of(backend="slurm", slurm={"site": "alps"}, **sections), is_held=True)
    run.has(agent=AGENT)
    return run


def tells(run: Run, attempt: int, **fields: Any) -> Decision:
    """Let the agent tell, and look."""
    told = SlurmStatus(site="alps", attempt=attempt, **fields)
    run.status = run.status.model_copy(update={"slurm": told})
    return run.look()


def training(run: Run, attempt: int, *, step: int = 40, **fields: Any) -> Decision:
    """Let the agent tell of a job that trains on both nodes."""
    known: dict[str, Any] = {
        "intent": "sft", "job_id": "7", "state": "RUNNING", "nodes": 2, "node": "n[1-2]", "dataset": DATASET,
        "progress": ProgressStatus(step=step, total_steps=400, ratio=0.1, loss=1.5, eta_seconds=60.0),
        "commit_step": 20, "best": BestStatus(metric="bbox_AP", value=0.5, step=20),
    }  # fmt: skip
    return tells(run, attempt, **(known | fields))


def opened(**sections: Any) -> Run:
    """Return a run whose first attempt is open."""
    run = slurm_run(**sections)
    run.look()
    assert [1] == [attempt.n for attempt in run.status.attempts]
    return run


def test_the_finalizer_is_there_before_an_attempt_is_opened():
    run = slurm_run()
    run.is_held = False
    assert (Hold(is_held=True),) == run.look().actions
    assert () == run.status.attempts
    run.is_held = True
    assert () == run.look().actions
    assert 1 == len(run.status.attempts)


def test_an_open_attempt_waits_for_its_agent():
    run = opened()
    assert Phase.PENDING is run.status.phase
    assert "agent of site alps" in run.status.summary.message
    run.has(agent=None)
    run.look()
    assert "sam3ft slurm-agent enroll --site alps -n ns" in run.status.summary.message
    assert ("False", "NoAgent") == run.condition(ConditionType.BACKEND_REACHABLE)[:2]


@pytest.mark.parametrize(
    ("word", "reason", "phase", "says"),
    [
        ("PENDING", "Priority", Phase.QUEUED, ("False", "Waiting")),
        ("PENDING", "JobHeldAdmin", Phase.QUEUED, ("False", "Held")),
        ("PENDING", "PartitionTimeLimit", Phase.QUEUED, ("False", "Unschedulable")),
        ("SUSPENDED", "", Phase.QUEUED, ("False", "JobSuspended")),
        ("SOME_NEW_WORD", "", Phase.QUEUED, ("False", "Waiting")),
        ("CONFIGURING", "", Phase.STARTING, ("True", "Starting")),
        ("RUNNING", "", Phase.STARTING, ("True", "Starting")),
    ],
)
def test_a_word_of_the_scheduler_is_a_phase_and_a_condition(
    word: str, reason: str, phase: Phase, says: tuple[str, str]
):
    run = opened()
    tells(run, 1, job_id="7", state=word, reason=reason, message="job 7 waits")
    assert phase is run.status.phase
    assert says == run.condition(ConditionType.SCHEDULED)[:2]
    is_loud = says[1] in ("Held", "Unschedulable", "JobSuspended")
    assert ("True" if is_loud else "False") == run.condition(ConditionType.DEGRADED)[0]


def test_a_check_and_a_submission_have_phases_of_their_own():
    run = opened()
    tells(run, 1, checking=True, message="The data set is being checked on the login node.")
    assert Phase.CHECKING is run.status.phase
    tells(run, 1, intent="sft-1", dataset=DATASET)
    assert Phase.STARTING is run.status.phase
    assert DATASET == run.status.dataset
    assert "True" == run.condition(ConditionType.DATASET_READY)[0]


def test_the_figures_of_a_job_are_those_of_the_status():
    run = opened()
    training(run, 1)
    status = run.status
    assert (Phase.RUNNING, "40/400", "2/2", "0.500") == (
        status.phase, status.summary.step, status.summary.nodes, status.summary.ap,
    )  # fmt: skip
    assert (20, "s3://r/x") == (status.checkpoint.step, status.checkpoint.uri)
    assert 2 == status.replicas
    assert "2 nodes train as job 7." == status.summary.message


def test_another_number_of_nodes_is_for_the_next_attempt_and_that_is_said():
    run = opened()
    training(run, 1)
    run.change(workers={"nodes": 3, "maxNodes": 4})
    training(run, 1, step=41)
    assert "3 are wanted from the next attempt on" in run.status.summary.message


def test_success_ends_the_run():
    run = opened(export={"uri": "s3://models/x"})
    training(run, 1)
    training(run, 1, step=400, state="COMPLETED", exit_code=0, ending="Succeeded")
    assert Phase.SUCCEEDED is run.status.phase
    assert "s3://models/x" == run.status.export.uri
    assert ("Succeeded", 0) == (run.status.attempts[-1].reason, run.status.attempts[-1].exit_code)


@pytest.mark.parametrize("code", [ExitCode.INVALID_CONFIG, ExitCode.INVALID_DATASET, ExitCode.OUT_OF_MEMORY])
def test_a_verdict_ends_the_run_with_its_message(code: ExitCode):
    run = opened()
    tells(run, 1, exit_code=int(code), ending="Whatever", message="image 7 is no image")
    assert Phase.FAILED is run.status.phase
    assert "image 7 is no image" in run.status.summary.message
    assert int(code) == run.status.attempts[-1].exit_code
    if code is ExitCode.INVALID_DATASET:
        assert "False" == run.condition(ConditionType.DATASET_READY)[0]


def test_a_counted_end_is_final_because_the_job_has_spent_the_budget_itself():
    run = opened()
    training(run, 1)
    training(run, 1, state="FAILED", exit_code=1, ending="InternalError", message="it broke 11 times")
    assert Phase.FAILED is run.status.phase
    assert "it broke 11 times" in run.status.summary.message


def test_a_job_that_the_site_ends_and_does_not_requeue_is_followed_by_a_fresh_one():
    run = opened()
    training(run, 1)
    decision = training(
        run, 1, state="NODE_FAIL", exit_code=int(ExitCode.PEER_LOST), ending="NodeFailure", message="n2 failed"
    )
    assert [1, 2] == [attempt.n for attempt in run.status.attempts]
    assert ("NodeFailure", 20) == (run.status.attempts[0].reason, run.status.attempts[0].lost_steps)
    assert any("n2 failed" in note.message for note in decision.notes)
    assert Phase.RESTARTING is run.status.phase


def test_ends_without_a_newer_commit_end_the_run_at_last():
    run = opened(failurePolicy={"maxWithoutProgress": 2})
    for attempt in (1, 2):
        run.wait(120)
        run.look()
        tells(run, attempt, job_id="7", state="PREEMPTED", exit_code=143, ending="Preempted", message="preempted")
    run.wait(120)
    run.look()
    assert Phase.FAILED is run.status.phase
    assert "2 ends in a row without a newer commit" in run.status.summary.message
    run.change(retry=1)
    run.look()
    assert 3 == run.status.attempts[-1].n


def test_a_job_that_somebody_cancels_ends_the_run():
    run = opened()
    training(run, 1)
    training(run, 1, state="COMPLETING", exit_code=20, ending="Cancelled", message="job 7 was cancelled with scancel")
    assert (Phase.FAILED, "JobCancelled") == (run.status.phase, run.condition(ConditionType.FAILED)[1])
    assert "raise spec.retry" in run.status.summary.message


def test_a_pause_saves_and_a_resumption_is_a_new_attempt():
    run = opened()
    training(run, 1)
    run.change(suspend=True)
    run.look()
    assert Phase.CHECKPOINTING is run.status.phase
    training(run, 1, state="COMPLETED", exit_code=20, ending="Interrupted")
    assert (Phase.SUSPENDED, "Suspended") == (run.status.phase, run.status.attempts[-1].reason)
    run.change(suspend=False)
    run.look()
    assert 2 == run.status.attempts[-1].n


def test_a_pause_that_is_taken_back_at_once_is_no_job_that_somebody_cancelled():
    run = opened()
    tells(run, 1, job_id="7", state="PENDING", reason="Priority")
    run.wait(10)
    tells(run, 1, job_id="7", state="CANCELLED", exit_code=20, ending="Interrupted")
    run.wait(60)
    run.look()
    assert [1, 2] == [attempt.n for attempt in run.status.attempts]


def test_a_deadline_ends_the_run_once_the_job_has_saved():
    run = opened(activeDeadlineSeconds=600)
    training(run, 1)
    run.wait(601)
    run.look()
    assert Phase.CHECKPOINTING is run.status.phase
    training(run, 1, state="COMPLETED", exit_code=20, ending="Interrupted")
    assert (Phase.FAILED, "DeadlineExceeded") == (run.status.phase, run.condition(ConditionType.FAILED)[1])


def test_a_silent_agent_and_a_silent_scheduler_are_told_and_change_nothing_else():
    run = opened()
    training(run, 1)
    run.has(agent=AgentView(silent_s=300.0))
    run.look()
    assert (Phase.RUNNING, ("Unknown", "AgentSilent")) == (
        run.status.phase, run.condition(ConditionType.BACKEND_REACHABLE)[:2],
    )  # fmt: skip
    run.has(agent=AGENT)
    training(run, 1, answers=False)
    assert (Phase.RUNNING, ("False", "SchedulerSilent")) == (
        run.status.phase, run.condition(ConditionType.BACKEND_REACHABLE)[:2],
    )  # fmt: skip
    training(run, 1)
    assert "True" == run.condition(ConditionType.BACKEND_REACHABLE)[0]


def test_what_an_agent_tells_of_another_site_or_attempt_is_passed_over():
    run = opened()
    tells(run, 2, exit_code=0)
    assert Phase.PENDING is run.status.phase
    run.status = run.status.model_copy(update={"slurm": SlurmStatus(site="jura", attempt=1, exit_code=0)})
    run.look()
    assert Phase.PENDING is run.status.phase


def test_a_deleted_resource_goes_when_its_job_has_ended():
    run = opened()
    training(run, 1)
    run.is_deleted, run.deleted_s = True, run.now_s
    run.wait(5)
    assert () == run.look().actions
    assert "once the agent of site alps has ended the job" in run.status.summary.message
    assert (Hold(is_held=False),) == training(run, 1, state="CANCELLED", exit_code=143).actions


def test_a_deleted_resource_does_not_wait_for_an_agent_for_ever():
    run = opened()
    training(run, 1)
    run.is_deleted, run.deleted_s = True, run.now_s
    run.wait(599)
    assert () == run.look().actions
    run.wait(1)
    decision = run._decide(run.status)
    assert (Hold(is_held=False),) == decision.actions
    assert "AgentSilent" == decision.notes[0].reason


def test_a_deleted_resource_whose_agent_never_meant_to_submit_goes_at_once():
    run = opened()
    run.is_deleted, run.deleted_s = True, run.now_s
    assert (Hold(is_held=False),) == run.look().actions
    assert (Hold(is_held=False),) == tells(run, 1, checking=True).actions
    assert () == tells(run, 1, intent="sft-1").actions


def test_a_deleted_resource_without_an_attempt_goes_at_once():
    run = slurm_run()
    run.is_deleted, run.deleted_s = True, START_S
    assert (Hold(is_held=False),) == run.look().actions
    run.is_held = False
    assert () == run.look().actions


def test_a_secret_that_slurm_does_not_use_is_told():
    run = opened(storage={"secretRef": "blood-s3"})
    assert ["SecretNotUsed"] == [note.reason for note in run.notes if note.type == "Warning"]


def test_a_run_on_kubernetes_asks_for_no_finalizer():
    run = Run(spec=spec_of())
    assert not any(isinstance(action, Hold) for action in run.look().actions)


def test_a_run_that_trains_without_a_node_says_why():
    run = opened()
    training(run, 1)
    assert "False" == run.condition(ConditionType.DEGRADED)[0]
    training(run, 1, message="the folder cannot be read")
    assert "False" == run.condition(ConditionType.DEGRADED)[0]
    training(run, 1, missing="node 1 is missing: its job has failed on every node that it had")

    status, reason, message = run.condition(ConditionType.DEGRADED)
    assert ("True", "NodesMissing") == (status, reason)
    assert "node 1 is missing" in message
    assert run.status.summary is not None
    assert "node 1 is missing" in (run.status.summary.message or "")
    training(run, 1)
    assert "False" == run.condition(ConditionType.DEGRADED)[0]
