"""Which phrases are asked of an image, and which objects answer them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.training import DataConfig
from sam3ft_trainer.data.index import NO_PHRASE, Category, CocoIndex, Ints
from sam3ft_trainer.data.seeds import Draws, hash64


class Question(NamedTuple):
    """One (image, phrase) pair before its objects are transformed.

    Attributes:
        category_id: COCO category id.
        phrase: the text.
        rows: int64, annotation rows of the index that answer it; empty for a negative.
        exhaustive: whether the image has no further object that the phrase describes.
    """

    category_id: int
    phrase: str
    rows: Ints
    exhaustive: bool


@dataclass(frozen=True, slots=True)
class PhraseBook:
    """Phrases and rules of one split.

    Attributes:
        categories: those that are asked, in id order.
        rows: row of each in the index.
        phrases: of each, at least one; the first one is used in evaluation.
        exhaustive: of each, whether it is annotated completely.
        by_name: of each, whether the category itself is asked in training; False where every annotation of it has a
            noun phrase of its own.
        own_phrases: use the noun phrases of annotations (training only).
        negatives: ask for absent categories.
        max_per_image: all categories up to here; beyond it all present ones and a sample of absent ones.
    """

    categories: tuple[Category, ...]
    rows: tuple[int, ...]
    phrases: tuple[tuple[str, ...], ...]
    exhaustive: tuple[bool, ...]
    by_name: tuple[bool, ...]
    own_phrases: bool
    negatives: bool
    max_per_image: int

    def training_questions(self, index: CocoIndex, image_row: int, draws: Draws) -> tuple[Question, ...]:
        """Return the pairs of one image in one epoch, in category order, a category's own phrase first.

        Crowd regions and unusable annotations answer nothing, but a category that has one counts as present. A category
        that is not annotated completely is asked only where it has an object.
        """
        span = index.rows_of(image_row)
        rows = np.arange(span.start, span.stop)
        present: list[Question] = []
        absent: list[Question] = []
        for place, category_row in enumerate(self.rows):
            mine = rows[index.category_rows[span] == category_row]
            found = self._answered(index, place, mine, draws)
            present += found
            if not len(mine) and self.by_name[place] and self.exhaustive[place]:
                absent.append(Question(self.categories[place].id, self._drawn(place, draws), mine, True))
        return tuple(sorted(present + self._sample(absent, len(present), draws), key=lambda q: q.category_id))

    def evaluation_questions(self, index: CocoIndex, image_row: int) -> tuple[Question, ...]:
        """Return one pair for each category, absent ones included, crowd regions among the rows."""
        span = index.rows_of(image_row)
        rows = np.arange(span.start, span.stop)
        return tuple(
            Question(category.id, phrases[0], rows[index.category_rows[span] == row], exhaustive)
            for category, row, phrases, exhaustive in zip(
                self.categories, self.rows, self.phrases, self.exhaustive, strict=True
            )
        )

    def all_phrases(self, index: CocoIndex) -> tuple[str, ...]:
        """Return every phrase that training or evaluation can ask, without repetition."""
        named = [phrase for phrases in self.phrases for phrase in phrases]
        return tuple(dict.fromkeys([*named, *(index.own_phrases if self.own_phrases else ())]))

    def _answered(self, index: CocoIndex, place: int, rows: Ints, draws: Draws) -> list[Question]:
        """Return the pairs of a category that has annotations in the image."""
        if not len(rows):
            return []
        solid = rows[~index.is_crowd[rows] & index.is_usable[rows]]
        own = index.phrase_rows[rows] if self.own_phrases else np.full(len(rows), NO_PHRASE)
        category_id, exhaustive = self.categories[place].id, self.exhaustive[place]
        plain = np.intersect1d(solid, rows[own == NO_PHRASE])
        questions = []
        if self.by_name[place] and (own == NO_PHRASE).any():
            complete = exhaustive and not (own != NO_PHRASE).any()
            questions.append(Question(category_id, self._drawn(place, draws), plain, complete))
        for phrase_row in np.unique(own[own != NO_PHRASE]).tolist():
            mine = np.intersect1d(solid, rows[own == phrase_row])
            questions.append(Question(category_id, index.own_phrases[phrase_row], mine, exhaustive))
        return questions

    def _sample(self, absent: list[Question], num_present: int, draws: Draws) -> list[Question]:
        if not self.negatives:
            return []
        room = max(0, self.max_per_image - num_present)
        if len(absent) <= room:
            return absent
        return sorted(absent, key=lambda q: hash64(draws.seed, draws.epoch, draws.image_id, "negative", q.category_id))[
            :room
        ]

    def _drawn(self, place: int, draws: Draws) -> str:
        phrases = self.phrases[place]
        return phrases[draws.below(f"phrase {self.categories[place].id}", len(phrases))]


def empty_parents(index: CocoIndex) -> frozenset[int]:
    """Return ids of categories without annotations that another category names as its supercategory."""
    used = {index.categories[row].id for row in np.unique(index.category_rows).tolist()}
    parents = {category.supercategory for category in index.categories}
    return frozenset(c.id for c in index.categories if c.id not in used and c.name in parents)


def build_phrase_book(index: CocoIndex, config: DataConfig, *, strict: bool) -> PhraseBook:
    """Return the phrases of one split.

    Args:
        index: of the split's file.
        config: `data` section.
        strict: whether a setting that names an unknown category is an error (on train, whose categories rule).

    Raises:
        InvalidConfig: `data.phrases` or `data.exhaustive` names a category that the file does not have, or gives a
            category no phrase.
    """
    if strict:
        names = [category.name for category in index.categories]
        _check_names(config.phrases, names, "data.phrases")
        _check_names(config.exhaustive if isinstance(config.exhaustive, tuple) else (), names, "data.exhaustive")
    without = [name for name, phrases in config.phrases.items() if not phrases]
    if without:
        raise InvalidConfig(f"data.phrases gives {without[0]!r} no phrase; give at least one, or leave the entry out")
    left_out = empty_parents(index) if config.ignore_empty_parents else frozenset()
    asked = [(row, c) for row, c in enumerate(index.categories) if c.id not in left_out]
    return PhraseBook(
        categories=tuple(category for _, category in asked),
        rows=tuple(row for row, _ in asked),
        phrases=tuple(config.phrases.get(category.name, (category.name,)) for _, category in asked),
        exhaustive=tuple(_is_exhaustive(config, category) for _, category in asked),
        by_name=tuple(_is_asked_by_name(index, config, row) for row, _ in asked),
        own_phrases=config.annotation_phrases,
        negatives=config.negatives,
        max_per_image=config.max_phrases_per_image,
    )


def _is_exhaustive(config: DataConfig, category: Category) -> bool:
    return config.exhaustive if isinstance(config.exhaustive, bool) else category.name in config.exhaustive


def _is_asked_by_name(index: CocoIndex, config: DataConfig, row: int) -> bool:
    mine = index.phrase_rows[index.category_rows == row]
    return not config.annotation_phrases or len(mine) == 0 or bool((mine == NO_PHRASE).any())


def _check_names(given: Sequence[str] | dict[str, tuple[str, ...]], known: list[str], setting: str) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidConfig(f"{setting} names the category {unknown[0]!r}, which train does not have; it has {known}")
