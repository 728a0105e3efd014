"""Curves as inline SVG that takes its colours from the page, so that one drawing serves light, dark and paper."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#010203", "#040506"
"""Stand-ins in the drawing, replaced by the page's variables."""
_SERIES = ("#a1b2c1", "#a1b2c2", "#a1b2c3", "#a1b2c4", "#a1b2c5")
_VARIABLES = {_INK: "var(--muted)", _GRID: "var(--line)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(_SERIES)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sam3ft",
    "font.size": 10,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: for the legend; none is drawn for a single curve.
        x: steps.
        y: values; None leaves a gap.
        dots: mark each point, for evaluations.
        faint: thin and grey, behind the others.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    dots: bool = False
    faint: bool = False


def curve(series: Sequence[Series], *, percent: bool = False, log: bool = False, marker: float | None = None) -> str:
    """Return an SVG element with the curves over the optimizer step; empty when no curve has a value.

    Args:
        series: at most five; more cannot be told apart.
        percent: values are shares of 1, shown times 100.
        log: logarithmic axis, where all values are above 0.
        marker: step at which a thin line stands, for the best weights.
    """
    drawn = [item for item in series if any(value is not None for value in item.y)][: len(_SERIES)]
    if not drawn:
        return ""
    # Every worker loads this module, rank 0 draws once, at the end; in a fresh container the import looks for fonts.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.2, 2.9), layout="constrained")
        axes = figure.subplots()
        for item, color in zip(drawn, _SERIES, strict=False):
            _draw(axes, item, color, 100.0 if percent else 1.0)
        _finish(axes, drawn, percent=percent, log=log, marker=marker)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _draw(axes: "Axes", item: Series, color: str, scale: float) -> None:
    y = [float("nan") if value is None else value * scale for value in item.y]
    line = axes.plot(list(item.x), y, color=color, label=item.name)[0]
    if item.faint:
        line.set(color=_INK, linewidth=0.9, alpha=0.55, zorder=1.5)
    elif item.dots or len(y) == 1:
        line.set_marker("o")
        line.set_markersize(4.5)


def _finish(axes: "Axes", drawn: Sequence[Series], *, percent: bool, log: bool, marker: float | None) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as above

    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    values = [value for item in drawn for value in item.y if value is not None]
    if log and min(values) > 0:
        axes.set_yscale("log")
    elif percent:
        axes.set_ylim(0, max(5.0, min(100.0, 115 * max(values))))
    if marker is not None:
        axes.axvline(marker, color=_INK, linewidth=0.9, linestyle=(0, (1, 2)))
    if len(drawn) > 1:
        axes.legend(loc="best", fontsize=9, handlelength=1.4, labelcolor=_INK)


def _inline(svg: str) -> str:
    """Keep the SVG element alone, scalable, with the page's colours and fonts."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg


def smoothed(values: Sequence[float | None], *, weight: float = 0.8) -> list[float | None]:
    """Return the exponential moving average, corrected for its start; gaps stay gaps."""
    average, correction = 0.0, 0.0
    out: list[float | None] = []
    for value in values:
        if value is None:
            out.append(None)
            continue
        average = weight * average + (1 - weight) * value
        correction = weight * correction + (1 - weight)
        out.append(average / correction)
    return out
