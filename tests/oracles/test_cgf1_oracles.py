"""cgF1 against the upstream evaluator: every count exactly, every rate within 1e-9."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from oracle_cases import OracleCase

from sam3ft_trainer.evaluate.cgf1 import Cgf1Scores, match_pair, summarize


def _shapes(items: list[dict[str, Any]], kind: str) -> Any:
    if kind == "segm":
        return [item["segmentation"] for item in items]
    return np.array([item["bbox"] for item in items], dtype=np.float64).reshape(-1, 4)


def _scores(case: OracleCase) -> Cgf1Scores:
    settings = case.settings
    truth, detections = defaultdict(list), defaultdict(list)
    for item in settings["ground_truth"]["annotations"]:
        if not item["iscrowd"]:
            truth[item["image_id"]].append(item)
    for item in settings["predictions"]:
        if item["score"] >= settings["score_threshold"]:
            detections[item["image_id"]].append(item)
    kind = settings["iou_type"]
    images = [image for image in settings["ground_truth"]["images"] if image["is_instance_exhaustive"]]
    return summarize(
        match_pair(_shapes(truth[image["id"]], kind), _shapes(detections[image["id"]], kind)) for image in images
    )


@pytest.mark.oracle_cases("cgf1_*")
def test_summary_equals_upstream(case: OracleCase) -> None:
    scores = _scores(case)

    assert {
        name: pytest.approx(value, abs=1e-9) for name, value in case.settings["expected"]["summary"].items()
    } == dict(scores.summary)


@pytest.mark.oracle_cases("cgf1_*")
def test_values_per_threshold_and_presence_counts_equal_upstream(case: OracleCase) -> None:
    scores = _scores(case)

    assert case.settings["expected"]["presence_counts"] == dict(scores.presence)
    for name, expected in case.settings["expected"]["per_threshold"].items():
        wanted = [math.nan if value is None else value for value in expected]
        np.testing.assert_allclose(wanted, scores.per_threshold[name], rtol=0, atol=1e-9, err_msg=name)
