"""The model card: what was trained on what, how well it does, and how it must be called."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from pydantic import BaseModel, ConfigDict

from sam3ft_api.training import Task

CARD = "README.md"
"""File name of the card, which model hubs show."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class CardScores(_Facts):
    """One row of the table of scores.

    Attributes:
        label: which model, called how.
        metrics: by name, 0..1; None where undefined.
    """

    label: str
    metrics: Mapping[str, float | None]


class CardCategory(_Facts):
    """One category as it was trained.

    Attributes:
        name: category name.
        phrases: what it was asked with; the first one is the one to use.
        objects: annotated training objects.
    """

    name: str
    phrases: tuple[str, ...]
    objects: int


class CardFacts(_Facts):
    """Everything the card tells.

    Attributes:
        name: of the run; the card's title.
        task: detection trains no masks.
        base_model: where the initial weights came from.
        base_digest: hex SHA-256 over the initial weights.
        resolution: side of the square input in pixels.
        geometry_cls: the geometry token was appended to the text in training.
        settings: training settings worth showing, by name.
        images: training images.
        data_digest: hex SHA-256 of the training annotations.
        categories: in id order.
        scored_split: which split the scores are of.
        scored_images: how many images it has.
        scores: rows of the table, the base model first.
        versions: of the libraries that trained and exported.
    """

    name: str
    task: Task
    base_model: str
    base_digest: str = ""
    resolution: int
    geometry_cls: bool
    settings: Mapping[str, str | int | float | bool | None]
    images: int
    data_digest: str = ""
    categories: tuple[CardCategory, ...]
    scored_split: str = "test"
    scored_images: int = 0
    scores: tuple[CardScores, ...] = ()
    versions: Mapping[str, str] = {}


METRIC_ORDER = (
    "bbox_AP",
    "bbox_AP50",
    "bbox_AP75",
    "bbox_AR",
    "segm_AP",
    "segm_AP50",
    "segm_AP75",
    "segm_AR",
    "cgF1",
    "pmF1",
    "IL_MCC",
    "fp_absent_rate",
)
"""Metrics of the card's table, in this order, those that any row has."""


def render_card(facts: CardFacts, *, address: str) -> str:
    """Return the card as Markdown with YAML front matter.

    Args:
        facts: what to tell; names and phrases may hold anything, they cannot break the table or the code.
        address: where the export is. The shown code loads it from there, or from a copy when it is in a bucket.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, not HTML; `cell` and `quoted` make user text harmless
    )
    environment.filters |= {"cell": _cell, "quoted": _quoted, "percent": _percent}
    template = environment.from_string(resources.files(__package__).joinpath("card.md.jinja").read_text())
    columns = [name for name in METRIC_ORDER if any(row.metrics.get(name) is not None for row in facts.scores)]
    phrase = next((phrase for item in facts.categories for phrase in item.phrases), "object")
    return template.render(
        facts=facts, columns=columns, phrase=phrase, address=address, folder=_local(address), tags=_tags(facts)
    )


def _local(address: str) -> str:
    """The folder itself, or the name under which a copy from a bucket would lie."""
    return f"./{address.rstrip('/').rpartition('/')[2]}" if "://" in address else address


def _tags(facts: CardFacts) -> list[str]:
    return ["sam3", "object-detection", *(["image-segmentation"] if facts.task == "segmentation" else []), "sam3ft"]


def _cell(value: Any) -> str:
    """Text that cannot leave its table cell, open HTML or start a link."""
    text = "" if value is None else str(value)
    text = " ".join(text.split())
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return text


def _quoted(text: str) -> str:
    """A Python literal that cannot close the fence around the code."""
    return repr(text).replace("`", "\\x60")


def _percent(value: float | None) -> str:
    """A share as percent with one digit; a dash where it is undefined."""
    return "-" if value is None else f"{100 * value:.1f}"
