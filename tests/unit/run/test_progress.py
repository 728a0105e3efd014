from sam3ft_trainer.run.progress import foresee


def test_without_a_budget_the_plan_stands() -> None:
    assert foresee(10, total_steps=110, seconds_per_step=2.0, budget_left_s=None) == (110, 200.0)


def test_a_budget_that_ends_the_run_earlier_is_what_to_expect() -> None:
    assert foresee(10, total_steps=100_000, seconds_per_step=2.0, budget_left_s=60.0) == (40, 60.0)


def test_a_budget_with_room_changes_nothing() -> None:
    assert foresee(10, total_steps=20, seconds_per_step=1.0, budget_left_s=60.0) == (20, 10.0)


def test_before_the_first_step_nothing_is_foreseen() -> None:
    assert foresee(0, total_steps=100, seconds_per_step=0.0, budget_left_s=60.0) == (100, 0.0)


def test_a_spent_budget_leaves_no_time() -> None:
    assert foresee(10, total_steps=100, seconds_per_step=1.0, budget_left_s=-5.0) == (10, 0.0)
