"""The page itself: a Jinja template with escaping, styles inside, no script and nothing from the network."""

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from sam3ft_trainer.evaluate.report import view
from sam3ft_trainer.evaluate.report.advice import advise
from sam3ft_trainer.evaluate.report.document import ReportInput

NUM_COLORS = 8
"""Colours of categories; they repeat beyond."""


def render(report: ReportInput) -> str:
    """Return the report as HTML. User text (names, phrases, paths) is escaped wherever it stands."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": view.percent, "clock": view.clock, "words": _words}
    environment.globals |= {"color": _color}
    return environment.get_template("report.html.jinja").render(**_context(report))


def _source(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def _words(name: str) -> str:
    """`box_of_zero_size` as words."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _color(category: int) -> str:
    return f"var(--class-{category % NUM_COLORS})"


def _context(report: ReportInput) -> dict[str, Any]:
    return {
        "report": report,
        "config": report.config,
        "history": report.history,
        "final": report.scores.final,
        "baseline": report.scores.baseline,
        "hf_call": report.scores.hf_call,
        "kind": "Mask" if view.shape(report) == "segm" else "Box",
        "tiles": view.tiles(report),
        "metrics": view.metric_rows(report),
        "classes": view.class_lines(report),
        "advice": advise(report),
        "charts": [(chart, Markup(chart.svg)) for chart in view.charts(report)],  # noqa: S704 - drawn by us, no user text
        "best": view.best_evaluation(report),
        "settings": _settings(report),
        "findings": view.findings(report),
        "model_folder": model_folder(str((report.history.export or {}).get("address", ""))),
    }


def model_folder(address: str) -> str:
    """Return where a reader's machine has the model: the folder itself, or where a copy from a bucket would lie."""
    return f"./{address.rstrip('/').rpartition('/')[2]}" if "://" in address else address


def _settings(report: ReportInput) -> list[tuple[str, str]]:
    """Settings that differ from the defaults, as one would write them."""
    given = report.config.model_dump(mode="json")
    default = type(report.config)().model_dump(mode="json")
    return [
        (f"{section}.{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for section, values in given.items()
        for name, value in values.items()
        if value != default[section][name] and section != "identity"
    ]
