"""Progress as people see it: a bar on a terminal, a line now and then elsewhere. Pure: `Progress` in, text out."""

from datetime import timedelta

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sam3ft_api.worker import Progress

_BAR_WIDTH = 40


def progress_view(progress: Progress | None, *, phase: str, restarts: int) -> RenderableType:
    """Return the live display: a bar with its step and ETA, and one line of figures below.

    Args:
        progress: newest progress, None before the first.
        phase: what the backend says, shown until the trainer reports.
        restarts: of the launcher; shown when there were some.
    """
    if progress is None:
        return Text(f"{phase} ...", style="dim")
    row = Table.grid(padding=(0, 1))
    row.add_row(
        Text(progress.state, style="bold"),
        ProgressBar(total=max(1, progress.total_steps), completed=progress.step, width=_BAR_WIDTH),
        f"{progress.step}/{progress.total_steps}",
        f"ETA {duration(progress.eta_s)}" if progress.eta_s is not None else "",
    )
    return Group(row, Text("  ".join(figures(progress, restarts=restarts)), style="dim"))


def progress_line(progress: Progress, *, restarts: int) -> str:
    """Return the same on one plain line, for logs and pipes."""
    parts = [progress.state, f"step {progress.step}/{progress.total_steps}"]
    if progress.eta_s is not None:
        parts.append(f"ETA {duration(progress.eta_s)}")
    return "  ".join([*parts, *figures(progress, restarts=restarts)])


def figures(progress: Progress, *, restarts: int) -> list[str]:
    """Return what is known beside step and ETA, in a fixed order; unknown figures are left out."""
    shown = [f"epoch {progress.epoch:.2f}"]
    if progress.loss is not None:
        shown.append(f"loss {progress.loss:.4g}")
    if progress.images_per_s is not None:
        shown.append(f"{progress.images_per_s:.3g} images/s")
    if progress.best_metric is not None and progress.best_value is not None:
        shown.append(f"best {progress.best_metric} {progress.best_value:.3f} at step {progress.best_step}")
    if progress.checkpoint_step is not None:
        shown.append(f"checkpoint {progress.checkpoint_step}")
    for count, what in (
        (progress.skipped_steps, "skipped steps"),
        (progress.bad_images, "bad images"),
        (restarts, "restarts"),
    ):
        if count:
            shown.append(f"{count} {what}")
    if progress.message:
        shown.append(progress.message)
    return shown


def progress_rows(progress: Progress, *, restarts: int, is_over: bool) -> list[tuple[str, str]]:
    """Return rows of two columns: state and step, figures, every score, and the ETA of a run that is not over.

    Args:
        progress: newest progress.
        restarts: of the launcher.
        is_over: whether the run has ended.
    """
    rows = [("progress", f"{progress.state}, step {progress.step}/{progress.total_steps}")]
    rows.append(("", ", ".join(figures(progress, restarts=restarts))))
    scores = [f"{name} {value:.4f}" for name, value in sorted(progress.metrics.items())]
    rows += [("" if index else "scores", text) for index, text in enumerate(scores)]
    if progress.eta_s is not None and not is_over:
        rows.append(("ETA", duration(progress.eta_s)))
    return rows


def duration(seconds: float) -> str:
    """Return seconds as `0:00:07` or `1 day, 2:03:04`, without fractions."""
    return str(timedelta(seconds=round(max(0.0, seconds))))
