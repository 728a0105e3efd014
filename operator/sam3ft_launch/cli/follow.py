"""Staying with a run until it ends: showing its progress, and turning Ctrl-C into an orderly end."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, Self

from rich.live import Live

from sam3ft_api.worker import Progress
from sam3ft_launch.backend import Backend, Handle, Observed
from sam3ft_launch.cli.live import progress_line, progress_view
from sam3ft_launch.cli.output import OutputFormat, console, emit

_POLL_S = 0.25
_LINE_EVERY_S = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class View(Protocol):
    """Something that shows what was observed."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(self, *details: object) -> None:
        """Leave the terminal in order."""
        ...

    def show(self, observed: Observed) -> None:
        """Show the newest observation; called several times a second."""
        ...

    def say(self, text: str) -> None:
        """Show one line that stays."""
        ...


class LiveView:
    """A bar that is redrawn, for a terminal."""

    def __init__(self) -> None:
        """Prepare; nothing is drawn yet."""
        self._live = Live(console=console(), refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *details: object) -> None:
        """Stop drawing and give the terminal back."""
        self._live.stop()

    def show(self, observed: Observed) -> None:
        """Redraw."""
        self._live.update(progress_view(observed.progress, phase=observed.state, restarts=observed.restarts))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._live.console.print(text)


class LineView:
    """One plain line at every change of state and every ten seconds of progress."""

    def __init__(self, *, every_s: float = _LINE_EVERY_S) -> None:
        """Prepare.

        Args:
            every_s: seconds between lines while only the step changes.
        """
        self._every_s = every_s
        self._shown: Progress | None = None
        self._shown_at_s = -float("inf")

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *details: object) -> None:
        """Do nothing."""

    def show(self, observed: Observed) -> None:
        """Print a line when it is due."""
        progress = observed.progress
        if progress is None or progress == self._shown or not self._is_due(progress):
            return
        self._shown = progress
        self._shown_at_s = time.monotonic()
        self._print(observed, progress)

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def _is_due(self, progress: Progress) -> bool:
        before = self._shown
        return (
            before is None
            or (before.state, before.metrics) != (progress.state, progress.metrics)
            or time.monotonic() - self._shown_at_s >= self._every_s
        )

    def _print(self, observed: Observed, progress: Progress) -> None:
        print(progress_line(progress, restarts=observed.restarts), flush=True)


class JsonView(LineView):
    """One JSON object a line at every change, at most one a second unless the state changes."""

    def __init__(self) -> None:
        """Prepare."""
        super().__init__(every_s=1.0)

    def say(self, text: str) -> None:
        """Emit a `notice`."""
        emit(event="notice", message=text)

    def _print(self, observed: Observed, progress: Progress) -> None:
        emit(event="progress", restarts=observed.restarts, **progress.model_dump(mode="json"))


def view_for(output: OutputFormat) -> View:
    """Return the view that fits: JSON for machines, a live bar on a terminal, else lines."""
    if output is OutputFormat.JSON:
        return JsonView()
    return LiveView() if console().is_terminal else LineView()


def follow(backend: Backend[Any], handle: Handle, *, view: View, grace_s: float) -> Observed:
    """Show the run until it ends and return the last observation.

    The first Ctrl-C, SIGTERM or SIGHUP asks the run to save and end within `grace_s` seconds; the second ends it now.
    """
    with _counted_signals() as received, view:
        handled, told = 0, ""
        while True:
            observed = backend.observe(handle)
            if not observed.state.is_terminal and observed.message not in ("", told):
                told = observed.message
                view.say(told)
            view.show(observed)
            if observed.state.is_terminal:
                return observed
            if len(received) > handled:
                handled = len(received)
                _cancel(backend, handle, view=view, grace_s=grace_s if handled == 1 else 0.0)
            time.sleep(_POLL_S)


def _cancel(backend: Backend[Any], handle: Handle, *, view: View, grace_s: float) -> None:
    if grace_s > 0:
        view.say(f"saving a checkpoint, then ending (at most {grace_s:g} s); once more ends it now, without saving")
    else:
        view.say("ending now; the newest checkpoint stays")
    backend.cancel(handle, grace_s=grace_s)


@contextmanager
def _counted_signals() -> Iterator[list[int]]:
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
