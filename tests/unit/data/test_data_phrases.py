"""Which phrases are asked of an image, in training and in evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.data.phrases import Question
from sam3ft_trainer.data.sample import train_sample
from sam3ft_trainer.data.seeds import Draws

Document = dict[str, Any]
Write = Callable[..., Path]
Configured = Callable[..., TrainingConfig]


def asked(dataset: CocoDataset, image_id: int, *, epoch: int = 0, seed: int = 0) -> tuple[Question, ...]:
    row = dataset.index.row_of_image(image_id)
    return dataset.book.training_questions(dataset.index, row, Draws(seed, epoch, image_id))


def told(questions: tuple[Question, ...]) -> list[tuple[int, str, int]]:
    return [(question.category_id, question.phrase, len(question.rows)) for question in questions]


@pytest.fixture
def twelve(document: Document) -> Document:
    """Twelve categories; image 1 has those of id 1 and 2."""
    document["categories"] = [{"id": n, "name": f"c{n}"} for n in range(1, 13)]
    return document


def test_every_category_is_asked_in_id_order_and_absent_ones_are_negatives(
    document: Document, write_split: Write, configured: Configured
) -> None:
    document["categories"].reverse()
    write_split(document)

    dataset = open_dataset(configured(), "train")

    assert told(asked(dataset, 1)) == [(1, "cat", 1), (2, "dog", 1)]
    assert told(asked(dataset, 2)) == [(1, "cat", 1), (2, "dog", 0)]


def test_without_negatives_only_present_categories_are_asked(
    document: Document, write_split: Write, configured: Configured
) -> None:
    write_split(document)

    dataset = open_dataset(configured(data={"negatives": False}), "train")

    assert told(asked(dataset, 2)) == [(1, "cat", 1)]


def test_beyond_the_cap_all_present_and_a_sample_of_absent_categories_are_asked(
    twelve: Document, write_split: Write, configured: Configured
) -> None:
    write_split(twelve)
    dataset = open_dataset(configured(data={"max_phrases_per_image": 5}), "train")

    rounds = [told(asked(dataset, 1, epoch=epoch)) for epoch in range(60)]

    for questions in rounds:
        assert len(questions) == 5
        assert [(1, "c1", 1), (2, "c2", 1)] == questions[:2]
        assert questions == sorted(questions)
    assert {category for questions in rounds for category, _, _ in questions} == set(range(1, 13))
    assert rounds == [told(asked(dataset, 1, epoch=epoch)) for epoch in range(60)]


def test_present_categories_are_all_asked_even_beyond_the_cap(
    twelve: Document, write_split: Write, configured: Configured
) -> None:
    twelve["annotations"] = [{"id": n, "image_id": 1, "category_id": n, "bbox": [1, 1, 9, 9]} for n in range(1, 13)]
    write_split(twelve)

    dataset = open_dataset(configured(data={"max_phrases_per_image": 5}), "train")

    assert len(asked(dataset, 1)) == 12


def test_one_of_several_phrases_is_drawn_in_training_and_the_first_used_in_evaluation(
    document: Document, write_split: Write, configured: Configured
) -> None:
    write_split(document)
    dataset = open_dataset(configured(data={"phrases": {"cat": ["tabby", "feline", "mouser"]}}), "train")

    drawn = [asked(dataset, 1, epoch=epoch)[0].phrase for epoch in range(90)]

    assert set(drawn) == {"tabby", "feline", "mouser"}
    assert min(drawn.count(phrase) for phrase in set(drawn)) > 15
    assert [question.phrase for question in dataset.book.evaluation_questions(dataset.index, 0)] == ["tabby", "dog"]
    assert dataset.phrases == ("tabby", "feline", "mouser", "dog")


def test_an_annotations_own_phrase_is_asked_for_in_place_of_its_category(
    document: Document, write_split: Write, configured: Configured
) -> None:
    document["annotations"].append(
        {"id": 4, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "noun_phrase": " black cat "}
    )
    write_split(document)

    dataset = open_dataset(configured(), "train")

    questions = asked(dataset, 1)
    assert told(questions) == [(1, "cat", 1), (1, "black cat", 1), (2, "dog", 1)]
    assert [question.exhaustive for question in questions] == [False, True, True]
    assert "black cat" in dataset.phrases
    assert told(dataset.book.evaluation_questions(dataset.index, 0)) == [(1, "cat", 2), (2, "dog", 1)]
    plain = open_dataset(configured(data={"annotation_phrases": False}), "train")
    assert told(asked(plain, 1)) == [(1, "cat", 2), (2, "dog", 1)]
    assert plain.phrases == ("cat", "dog")


def test_a_category_whose_annotations_all_have_phrases_is_never_asked_by_name(
    document: Document, write_split: Write, configured: Configured
) -> None:
    document["annotations"][1]["phrase"] = "small dog"
    write_split(document)

    dataset = open_dataset(configured(), "train")

    assert told(asked(dataset, 1)) == [(1, "cat", 1), (2, "small dog", 1)]
    assert told(asked(dataset, 2)) == [(1, "cat", 1)]


@pytest.mark.parametrize("exhaustive", [False, ["cat"]])
def test_a_category_that_is_not_exhaustive_is_no_negative_and_is_marked_where_present(
    exhaustive: Any, document: Document, write_split: Write, configured: Configured
) -> None:
    write_split(document)
    config = configured(data={"exhaustive": exhaustive})

    dataset = open_dataset(config, "train")

    assert told(asked(dataset, 2)) == [(1, "cat", 1)]
    assert [question.exhaustive for question in asked(dataset, 1)] == [exhaustive is not False, False]


def test_a_pair_that_is_not_exhaustive_is_dropped_when_its_objects_are_filtered(
    document: Document, write_split: Write, configured: Configured
) -> None:
    document["annotations"][1]["bbox"] = [1, 1, 0.01, 0.01]
    write_split(document)

    complete = train_sample(open_dataset(configured(), "train"), 1, epoch=0, config=configured())
    config = configured(data={"exhaustive": ["cat"]})
    partial = train_sample(open_dataset(config, "train"), 1, epoch=0, config=config)

    assert [(pair.phrase, len(pair.boxes_N4)) for pair in complete.pairs] == [("cat", 1), ("dog", 0)]
    assert [(pair.phrase, len(pair.boxes_N4)) for pair in partial.pairs] == [("cat", 1)]


def test_crowd_regions_are_not_trained_on_and_stay_in_evaluation(
    document: Document, write_split: Write, configured: Configured
) -> None:
    document["annotations"][1]["iscrowd"] = 1
    write_split(document)

    dataset = open_dataset(configured(), "train")

    assert told(asked(dataset, 1)) == [(1, "cat", 1), (2, "dog", 0)]
    assert told(dataset.book.evaluation_questions(dataset.index, 0)) == [(1, "cat", 1), (2, "dog", 1)]
    assert dataset.report.count("crowd_region") == 1
    assert dataset.report.categories[1].crowd == 1
