"""What keeps a run from starting, and what is never started."""

import pytest
from decide_bench import Run, coordinator, failed_pod, group, job, pod, running, spec_of, started

from sam3ft_api.status import ConditionType, Phase
from sam3ft_api.termination import Termination
from sam3ft_operator.decision import Ensure, Hold, Part


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"waiting": "ImagePullBackOff", "waiting_message": "no manifest"}, "ImagePullBackOff", "no manifest"),
        ({"unschedulable": "0/4 nodes: 4 Insufficient nvidia.com/gpu", "node": ""}, "Unschedulable", "nvidia.com/gpu"),
        ({"waiting": "CreateContainerConfigError", "waiting_message": 'secret "s3" not found'},
         "CreateContainerConfigError", "create the Secret"),
    ],
)  # fmt: skip
def test_what_keeps_pods_from_starting_is_said_with_what_to_do(fields: dict[str, str], reason: str, said: str) -> None:
    run = started()
    pods = tuple(pod(1, index, phase="Pending", is_ready=False, **fields) for index in range(2))
    run.has(pods=(*pods, coordinator(1)), group=group(1, state="waiting", ready_nodes=0))
    run.wait(11)

    decision = run.look()
    assert (Phase.STARTING, "False", reason) == (run.status.phase, *run.condition(ConditionType.SCHEDULED)[:2])
    assert said in run.status.summary.message
    assert decision.requeue_s is not None
    assert decision.requeue_s <= 60


def test_a_quota_is_said() -> None:
    run = started()
    run.has(
        jobs=(job(1, trouble="exceeded quota: gpus, requested: 8, used: 8, limited: 8"),),
        pods=(coordinator(1),),
        group=None,
    )
    run.look()
    assert "QuotaExceeded" == run.condition(ConditionType.DEGRADED)[1]


def test_a_refused_spec_says_why_and_recovers_when_it_is_mended() -> None:
    run = Run(refusal="spec.training.config.optim.lr_typo: unknown setting")
    run.look()
    assert (Phase.FAILED, "False") == (run.status.phase, run.condition(ConditionType.ACCEPTED)[0])
    assert "lr_typo" in run.status.summary.message
    run.refusal = ""
    assert (Ensure(Part.PREFLIGHT),) == run.look().actions
    assert "True" == run.condition(ConditionType.ACCEPTED)[0]


def test_nothing_is_made_for_a_resource_that_goes_or_belongs_to_another_backend() -> None:
    assert () == Run(is_deleted=True).look().actions
    elsewhere = Run(spec_of(backend="slurm", slurm={"site": "alps"}))
    assert (Hold(),) == elsewhere.look().actions
    assert Phase.PENDING is elsewhere.status.phase


def test_words_of_pods_cannot_act_on_a_terminal() -> None:
    run = running()
    evil = Termination(code=11, reason="x", message="bad\x1b[2J\u202egpj\ud800", rank=0)
    run.has(pods=(failed_pod(1, 0, 11, termination=evil), coordinator(1)))

    run.look()
    assert run.status.summary.message.startswith("bad[2Jgpj")
