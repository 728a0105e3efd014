from hypothesis import given
from hypothesis import strategies as st

from sam3ft_trainer.run.micro_batch import choose_micro_batch, images_per_rank

sizes = st.integers(1, 512)
optional_sizes = st.none() | sizes


@given(optional_sizes, optional_sizes, sizes, optional_sizes, sizes, st.integers(1, 64))
def test_the_choice_is_at_least_one_and_never_beyond_the_launchers_bound_or_the_share(
    wanted: int | None, committed: int | None, fits: int, bound: int | None, batch_size: int, world_size: int
) -> None:
    chosen = choose_micro_batch(
        wanted=wanted, committed=committed, fits=fits, upper_bound=bound, batch_size=batch_size, world_size=world_size
    )

    assert 1 <= chosen <= images_per_rank(batch_size=batch_size, world_size=world_size)
    assert bound is None or chosen <= bound


def test_a_committed_value_goes_before_what_fits_today() -> None:
    chosen = choose_micro_batch(wanted=None, committed=2, fits=8, upper_bound=None, batch_size=8, world_size=1)

    assert chosen == 2
