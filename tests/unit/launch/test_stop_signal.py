"""A request to end that arrives at any instruction of who waits for it."""

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from sam3ft_launch.stop_signal import StopSignal

LINES = len(StopSignal.wait.__code__.co_code)
"""More than there are instructions."""


def interrupted(act: Callable[[], object], *, after: int, handler: Callable[[], object]) -> bool:
    """Call `act`, and `handler` before an instruction of `wait`, as Python runs one; tells whether it was called."""
    left, was_called = after, False

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left, was_called
        if frame.f_code is not StopSignal.wait.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0 and not was_called:
                was_called = True
                handler()
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return was_called


@pytest.mark.timeout(30)
def test_a_handler_may_interrupt_a_wait_at_any_instruction() -> None:
    answered = []
    for after in range(LINES):
        stop = StopSignal()
        found: list[bool] = []
        if not interrupted(lambda: found.append(stop.wait(0.05)), after=after, handler=stop.set):  # noqa: B023
            break
        answered.append(found[0] or stop.wait(0))

    assert len(answered) > 10
    assert all(answered)


def test_everybody_who_waits_is_woken() -> None:
    stop, woken = StopSignal(), []
    waiting = [threading.Thread(target=lambda: woken.append(stop.wait(20))) for _ in range(5)]
    for thread in waiting:
        thread.start()
    stop.set()
    for thread in waiting:
        thread.join(20)

    assert [True] * 5 == woken
    assert stop.wait()


def test_without_a_request_a_wait_ends_by_itself() -> None:
    stop = StopSignal()

    assert not stop.wait(0.01)
    assert not stop.is_set()
