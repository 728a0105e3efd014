from sam3ft_trainer.run.selection import Selection
from sam3ft_trainer.run.state import SKIP_WINDOW, LoopState


def make_state(**changes: object) -> LoopState:
    fields = {
        "total_steps": 10,
        "selection": Selection(metric="bbox_AP"),
        "micro_batch": 1,
        "threads": 1,
        "world_size": 1,
    }
    return LoopState.model_validate(fields | changes)


def test_skips_leave_the_window_but_stay_in_the_total() -> None:
    state = make_state(total_steps=5000).with_skip(3).with_skip(4).with_skip(3 + SKIP_WINDOW)

    later = state.model_copy(update={"step": 4 + SKIP_WINDOW})

    assert state.skipped_total == 3
    assert state.skipped_steps == (4, 3 + SKIP_WINDOW)
    assert later.skips_within_window() == 1


def test_a_state_survives_json() -> None:
    state = make_state(step=3, metrics={"bbox_AP": 0.1}).with_skip(2)

    assert LoopState.model_validate_json(state.model_dump_json()) == state


def test_a_run_is_finished_at_its_last_step_or_when_patience_ran_out() -> None:
    assert make_state(step=10).is_finished
    assert make_state(step=1, stopped_early=True).is_finished
    assert not make_state(step=9).is_finished
