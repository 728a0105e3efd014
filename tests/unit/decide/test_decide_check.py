"""What follows from the check of the data set."""

from decide_bench import CHECK_OBJECTS, START_S, Run, check_job, check_pod, spec_of

from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decision import Delete, Ensure, Part


def test_the_check_refuses_with_its_words() -> None:
    run = Run()
    run.look()
    run.has(jobs=(check_job(),), pods=(check_pod(11),), objects=CHECK_OBJECTS)
    run.look()
    assert (Phase.FAILED, "InvalidDataset") == (run.status.phase, run.condition(ConditionType.DATASET_READY)[1])
    assert "train has no images" in run.status.summary.message


def test_a_check_that_ends_without_an_answer_is_made_again_after_a_pause() -> None:
    run = Run()
    run.look()
    over = check_job(failure_reason="BackoffLimitExceeded", failure_message="x", finished_s=START_S)
    run.has(jobs=(over,), objects=CHECK_OBJECTS)
    assert ((), 10) == (run.look().actions, run.look().requeue_s)
    run.wait(10)
    for _ in range(3):
        assert (Delete("Job", over.name, "check-1"),) == run.look().actions
    assert (Phase.CHECKING, 1) == (run.status.phase, run.status.restarts)
    run.has(jobs=())
    assert (Ensure(Part.PREFLIGHT),) == run.look().actions


def test_a_check_is_made_again_only_while_the_budget_lasts() -> None:
    run = Run(spec_of(failurePolicy={"maxRestarts": 2}))
    run.look()
    for turn in range(3):
        ended = check_job(uid=f"c{turn}", created_s=run.now_s, failure_reason="Odd", finished_s=run.now_s)
        run.has(jobs=(ended,), objects=CHECK_OBJECTS)
        run.look()
        run.wait(100)
    assert (Phase.FAILED, "BudgetSpent") == (run.status.phase, run.condition(ConditionType.FAILED)[1])
