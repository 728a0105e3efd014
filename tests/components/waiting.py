"""Waiting for what a cluster does in its own time."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

Value = TypeVar("Value")


def wait_for(what: str, read: Callable[[], Value | None], *, within_s: float = 30.0) -> Value:
    """Return what `read` returns as soon as it is something."""
    give_up_s = time.monotonic() + within_s
    while True:
        if found := read():
            return found
        if time.monotonic() > give_up_s:
            pytest.fail(f"waited {within_s:g} s in vain: {what}")
        time.sleep(0.05)


def wait_until(condition: Callable[[], object], *, within_s: float = 30.0) -> None:
    """Return as soon as a condition holds."""
    wait_for("a condition", condition, within_s=within_s)
