from sam3ft_trainer.run.progress import LEAST_STEPS, Pace, foresee


def test_without_a_budget_the_plan_stands() -> None:
    assert foresee(10, total_steps=110, seconds_per_step=2.0, budget_left_s=None) == (110, 200.0)


def test_a_budget_that_ends_the_run_earlier_is_what_to_expect() -> None:
    assert foresee(10, total_steps=100_000, seconds_per_step=2.0, budget_left_s=60.0) == (40, 60.0)


def test_a_budget_with_room_changes_nothing() -> None:
    assert foresee(10, total_steps=20, seconds_per_step=1.0, budget_left_s=60.0) == (20, 10.0)


def test_before_the_first_step_nothing_is_foreseen() -> None:
    assert foresee(0, total_steps=100, seconds_per_step=0.0, budget_left_s=60.0) == (100, None)


def test_a_spent_budget_leaves_no_time() -> None:
    assert foresee(10, total_steps=100, seconds_per_step=1.0, budget_left_s=-5.0) == (10, 0.0)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_pace_forgets_what_came_before_the_first_step() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now_s = 100.0
    for _ in range(LEAST_STEPS):
        clock.now_s += 2.0
        pace.count_step(4)

    assert pace.seconds_per_step == 2.0


def test_a_few_steps_are_no_pace_yet() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(LEAST_STEPS - 1):
        clock.now_s += 2.0
        pace.count_step(4)

    assert pace.seconds_per_step == 0.0


def test_images_per_second_are_those_since_the_last_question() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now_s = 2.0
    pace.count_step(8)

    assert (pace.interval(), pace.interval()) == (4.0, None)
