"""The judge of the sample traces sees what it is there to see."""

import json
from pathlib import Path
from typing import Any

import pytest
from fault_bench import Bench, assert_each_image_of_each_epoch_once

GOOD = [
    {"step": 0, "epoch": 0, "rank": 0, "image_ids": [1, 3]},
    {"step": 0, "epoch": 0, "rank": 1, "image_ids": [2]},
    {"step": 1, "epoch": 0, "rank": 0, "image_ids": [4]},
    {"step": 1, "epoch": 0, "rank": 1, "image_ids": []},
    {"step": 2, "epoch": 1, "rank": 0, "image_ids": [4, 2]},
    {"step": 2, "epoch": 1, "rank": 1, "image_ids": [1]},
]


def traces(folder: Path, records: list[dict[str, Any]]) -> Path:
    for record in records:
        with (folder / f"samples-rank-{record['rank']}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    return folder


def test_a_run_without_faults_and_one_that_did_a_step_again_are_in_order(tmp_path: Path):
    first = traces(tmp_path, GOOD)

    steps = assert_each_image_of_each_epoch_once(first, steps=3, world_size=2)

    assert {0: (1, 2, 3), 1: (4,), 2: (1, 2, 4)} == steps
    assert steps == assert_each_image_of_each_epoch_once(traces(tmp_path, GOOD[:4]), steps=3, world_size=2)


def test_a_step_that_another_number_of_ranks_did_again_is_in_order_where_ranks_may_change(tmp_path: Path):
    alone = {"step": 0, "epoch": 0, "rank": 0, "image_ids": [1, 2, 3]}
    folder = traces(tmp_path, [*GOOD, alone])

    assert_each_image_of_each_epoch_once(folder, steps=3)

    with pytest.raises(AssertionError):
        assert_each_image_of_each_epoch_once(folder, steps=3, world_size=2)


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (2, {"image_ids": [3]}),
        (2, {"image_ids": []}),
        (0, {"image_ids": [1, 3, 4]}),
        (4, {"image_ids": [4, 2, 9]}),
        (4, {"epoch": 0}),
    ],
    ids=["repeated", "missed", "twice in an epoch", "never seen before", "another epoch"],
)
def test_a_missed_or_repeated_image_is_seen(tmp_path: Path, place: int, changes: dict[str, Any]):
    bad = [record | changes if number == place else record for number, record in enumerate(GOOD)]
    last = {"step": 3, "epoch": 1, "rank": 0, "image_ids": [3]}
    end = {"step": 4, "epoch": 2, "rank": 0, "image_ids": [1]}

    with pytest.raises(AssertionError):
        assert_each_image_of_each_epoch_once(traces(tmp_path, [*bad, last, end]), steps=5)


def test_whole_epochs_are_in_order_and_a_missing_step_is_seen(tmp_path: Path):
    last = {"step": 3, "epoch": 1, "rank": 0, "image_ids": [3]}
    end = {"step": 4, "epoch": 2, "rank": 0, "image_ids": [1]}
    folder = traces(tmp_path, [*GOOD, last, end])

    assert_each_image_of_each_epoch_once(folder, steps=5)

    with pytest.raises(AssertionError):
        assert_each_image_of_each_epoch_once(folder, steps=6)


def test_a_step_that_is_done_again_with_other_images_is_seen(tmp_path: Path):
    again = {"step": 1, "epoch": 0, "rank": 0, "image_ids": [3]}

    with pytest.raises(AssertionError):
        assert_each_image_of_each_epoch_once(traces(tmp_path, [*GOOD, again]), steps=3)


def test_a_spec_holds_what_a_test_changes(tmp_path: Path):
    bench = Bench(tmp_path, "s3://b/data", checkpoint="s3://b/runs/{name}", more={"training.config.optim": {"lr": 1}})

    spec = json.loads(bench.spec("mine").read_text())["spec"]

    assert "s3://b/runs/mine" == spec["checkpoint"]["uri"]
    assert {"lr": 1} == spec["training"]["config"]["optim"]
    assert spec["training"]["config"]["runtime"]["trace_samples"]
