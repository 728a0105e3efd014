"""Advice follows from the facts: each rule speaks when it must and is silent otherwise."""

from typing import Any

import pytest

from sam3ft_trainer.data.report import CategoryCount, DatasetReport, DroppedObjects, Problem
from sam3ft_trainer.evaluate.report.advice import advise
from sam3ft_trainer.evaluate.report.document import ReportInput

GOOD = {"bbox_AP": 0.6, "bbox_AP50": 0.85, "bbox_AP_small": 0.5, "bbox_AP_medium": 0.6, "fp_absent_rate": 0.05}


def _scores(metrics: dict[str, float], **changes: Any) -> dict[str, Any]:
    row = {"category_id": 1, "name": "cell", "images": 5, "objects": 20, "bbox_AP": 0.6}
    return {"split": "test", "images": 10, "metrics": metrics, "per_class": [row]} | changes


def _account(**changes: Any) -> DatasetReport:
    given: dict[str, Any] = {
        "split": "train",
        "address": "a",
        "digest": "d",
        "images": 100,
        "annotations": 400,
        "empty_images": 0,
        "held_out": 0,
        "decoded": True,
        "categories": (CategoryCount(1, "cell", ("cell",), 90, 400, 0, 0, asked=True),),
        "problems": (),
        "dropped": DroppedObjects(),
        "phrases": ("cell",),
    }
    return DatasetReport(**(given | changes))


def _report(**changes: Any) -> ReportInput:
    given: dict[str, Any] = {
        "config": {"model": {"uri": "hf://facebook/sam3"}},
        "history": {"total_steps": 4000},
        "datasets": {"train": _account()},
        "scores": {"final": _scores(GOOD), "baseline": _scores(GOOD | {"bbox_AP": 0.3})},
    }
    return ReportInput.model_validate(given | changes)


def _course(*values: float, metric: str = "bbox_AP") -> dict[str, Any]:
    steps = range(1000, 1000 * (len(values) + 1), 1000)
    return {
        "total_steps": 4000,
        "evaluations": [
            {"split": "valid", "step": step, "metrics": {metric: value}}
            for step, value in zip(steps, values, strict=True)
        ],
    }


def test_a_good_run_gets_no_complaint() -> None:
    assert [("good", "Nothing looks wrong")] == [(item.level, item.title) for item in advise(_report())]


def test_an_empty_report_is_no_error() -> None:
    assert advise(ReportInput.model_validate({"config": {"model": {"uri": "/models/sam3"}}, "history": {}}))


@pytest.mark.parametrize(
    ("changes", "words", "level"),
    [
        ({"config": {"model": {"uri": "preset:tiny"}}}, "random weights", "act"),
        (
            {"scores": {"final": _scores(GOOD), "baseline": _scores(GOOD | {"bbox_AP": 0.7})}},
            "base model was better",
            "act",
        ),
        ({"history": {"total_steps": 120}}, "Only 120 updates", "act"),
        ({"history": {"total_steps": 4000, "skipped_steps": 1}}, "1 update was left out", "consider"),
        ({"history": {"total_steps": 4000, "skipped_steps": 50}}, "50 updates were left out", "act"),
        ({"history": _course(0.2, 0.4, 0.6)}, "still rising", "consider"),
        ({"history": _course(0.2, 0.65, 0.5)}, "fell after step 2000", "consider"),
        ({"history": _course(0.8, 0.8, 0.8)}, "on the selecting split and 60.0 on test", "consider"),
        ({"scores": {"final": _scores(GOOD | {"bbox_AP": 0.2})}}, "outlines are loose", "consider"),
        ({"scores": {"final": _scores(GOOD | {"bbox_AP_small": 0.1})}}, "Small objects are missed", "consider"),
        ({"scores": {"final": _scores(GOOD | {"fp_absent_rate": 0.4})}}, "40 % of the pairs", "consider"),
        (
            {"scores": {"final": _scores(GOOD), "hf_call": _scores(GOOD | {"bbox_AP": 0.5})}},
            "loses 10.0 points",
            "consider",
        ),
        (
            {"datasets": {"train": _account(dropped=DroppedObjects(small_always=3, small_sometimes=4))}},
            "7 objects are too small",
            "consider",
        ),
        (
            {"datasets": {"train": _account(dropped=DroppedObjects(crowded_pairs=2, crowded_objects=500))}},
            "500 objects stand in too crowded",
            "consider",
        ),
        (
            {"datasets": {"train": _account(problems=(Problem("box_outside_image", "bad", 3, ("x",)),))}},
            "3 images or annotations could not be used",
            "act",
        ),
        (
            {"history": {"total_steps": 4000, "intervals": [{"step": 10, "spans": {"data": 3, "forward": 7}}]}},
            "30 % of the time",
            "consider",
        ),
        (
            {
                "scores": {
                    "final": _scores(GOOD, per_class=[{"category_id": 1, "name": "cell", "images": 9, "objects": 900}])
                }
            },
            "90 objects an image",
            "consider",
        ),
    ],
)
def test_each_rule_speaks_when_its_fact_is_there(changes: dict[str, Any], words: str, level: str) -> None:
    found = [item for item in advise(_report(**changes)) if words in item.title]

    assert [level] == [item.level for item in found]


def test_weak_categories_are_told_apart_by_the_number_of_examples() -> None:
    rows = [
        {"category_id": 1, "name": "cell", "images": 5, "objects": 20, "bbox_AP": 0.7},
        {"category_id": 2, "name": "platelet", "images": 5, "objects": 20, "bbox_AP": 0.01},
        {"category_id": 3, "name": "blast", "images": 2, "objects": 2, "bbox_AP": 0.0},
    ]
    counts = tuple(
        CategoryCount(number, name, (name,), 9, objects, 0, 0, asked=True)
        for number, name, objects in ((1, "cell", 400), (2, "platelet", 100), (3, "blast", 4))
    )

    titles = [
        item.title
        for item in advise(
            _report(scores={"final": _scores(GOOD, per_class=rows)}, datasets={"train": _account(categories=counts)})
        )
    ]

    assert ["Too few examples of blast", "platelet: far behind the other categories"] == titles


def test_the_most_urgent_comes_first() -> None:
    found = advise(_report(history={"total_steps": 120, "skipped_steps": 1}))

    assert ["act", "consider"] == [item.level for item in found]
