"""Imports without the collector between."""

import gc
from collections.abc import Iterator

import pytest

from sam3ft_trainer.imports import without_collection


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Leave the collector as it was."""
    yield
    gc.unfreeze()
    gc.enable()


def test_the_collector_stands_still_and_what_was_made_is_left_out_of_later_collections():
    before = gc.get_freeze_count()
    with without_collection():
        assert not gc.isenabled()
        made = [[number] for number in range(1000)]

    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_a_failed_import_leaves_the_collector_on():
    with pytest.raises(ImportError), without_collection():
        raise ImportError("no such module")

    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with without_collection():
        pass

    assert not gc.isenabled()
