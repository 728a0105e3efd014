from sam3ft_trainer.run.horizon import TimeBudget, is_evaluation_due


def test_evaluation_is_due_at_each_multiple_of_the_interval_and_at_the_end() -> None:
    due = [
        step for step in range(13) if is_evaluation_due(step=step, steps_per_epoch=5, every_epochs=1, total_steps=12)
    ]

    assert due == [5, 10, 12]


def test_a_fractional_interval_is_met_once_per_interval() -> None:
    due = [
        step
        for step in range(1, 21)
        if is_evaluation_due(step=step, steps_per_epoch=5, every_epochs=0.5, total_steps=100)
    ]

    assert due == [3, 5, 8, 10, 13, 15, 18, 20]


def test_without_an_interval_only_the_end_is_scored() -> None:
    due = [s for s in range(11) if is_evaluation_due(step=s, steps_per_epoch=5, every_epochs=None, total_steps=10)]

    assert due == [10]


def test_the_cool_down_starts_when_it_would_just_fit_the_budget() -> None:
    budget = TimeBudget(budget_s=100.0, cooldown=20)

    early = budget.last_step(step=50, total_steps=1000, elapsed_s=50.0, seconds_per_step=1.0)
    in_time = budget.last_step(step=80, total_steps=1000, elapsed_s=80.0, seconds_per_step=1.0)

    assert early is None
    assert in_time == 100


def test_a_run_that_already_cools_down_is_not_shortened() -> None:
    budget = TimeBudget(budget_s=10.0, cooldown=20)

    assert budget.last_step(step=985, total_steps=1000, elapsed_s=99.0, seconds_per_step=1.0) is None


def test_no_budget_never_ends_a_run() -> None:
    budget = TimeBudget(budget_s=None, cooldown=20)

    assert budget.last_step(step=1, total_steps=1000, elapsed_s=1e9, seconds_per_step=1.0) is None
