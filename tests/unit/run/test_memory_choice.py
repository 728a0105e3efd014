from sam3ft_api.training import Part
from sam3ft_trainer.model.cost import MemoryPlan, StepFlops
from sam3ft_trainer.run.memory import choose_layout

RUNGS: tuple[tuple[Part, ...], ...] = ((), ("decoder",), ("mask",), ("vision",))
BYTES_PER_IMAGE = {(): 100, ("decoder",): 40, ("mask",): 30, ("vision",): 10}
STATE = 50


class Tracer:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.asked: list[tuple[int, tuple[Part, ...]]] = []

    def __call__(self, images: int, parts: tuple[Part, ...]) -> MemoryPlan:
        self.asked.append((images, parts))
        return MemoryPlan(
            weights=STATE,
            gradients=0,
            optimizer=0,
            ema=0,
            activations={},
            losses=0,
            peak=images * BYTES_PER_IMAGE[parts],
            overhead=0,
            checkpointed=parts,
            budget=self.budget,
            flops=StepFlops({}, 0, 0),
        )


def choose(budget: int, *, share: int = 8, wanted: int | None = None) -> tuple[int, tuple[Part, ...], bool]:
    images, parts, plan = choose_layout(Tracer(budget), RUNGS, budget=budget, share=share, wanted=wanted)
    return images, parts, plan.fits


def test_with_room_for_all_nothing_is_recomputed() -> None:
    assert choose(1000) == (8, (), True)


def test_cheap_recomputation_goes_before_a_smaller_micro_batch() -> None:
    assert choose(STATE + 8 * 40) == (8, ("decoder",), True)


def test_a_smaller_micro_batch_goes_before_recomputing_the_vision_encoder() -> None:
    assert choose(STATE + 30) == (1, ("mask",), True)
    assert choose(STATE + 5 * 30) == (5, ("mask",), True)


def test_the_vision_encoder_is_recomputed_when_nothing_else_fits() -> None:
    assert choose(STATE + 20) == (2, ("vision",), True)


def test_what_cannot_fit_is_said_by_the_plan() -> None:
    images, parts, fits = choose(STATE + 5)

    assert (images, fits) == (1, False)
    assert parts in RUNGS


def test_the_users_micro_batch_is_kept_and_only_the_rung_is_chosen() -> None:
    assert choose(STATE + 4 * 40, wanted=4) == (4, ("decoder",), True)


def test_for_the_users_micro_batch_the_vision_encoder_is_recomputed_too() -> None:
    assert choose(STATE + 100, wanted=4) == (4, ("vision",), True)
    assert choose(STATE + 30, wanted=4) == (4, ("vision",), False)


def test_a_roomy_device_is_planned_with_one_trace() -> None:
    tracer = Tracer(10_000)

    choose_layout(tracer, RUNGS, budget=10_000, share=4, wanted=None)

    assert tracer.asked == [(4, ())]


def test_no_choice_is_traced_twice() -> None:
    tracer = Tracer(STATE + 30)

    choose_layout(tracer, RUNGS, budget=STATE + 30, share=1, wanted=None)

    assert tracer.asked == [(1, ()), (1, ("decoder",)), (1, ("mask",))]
