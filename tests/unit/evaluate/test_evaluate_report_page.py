"""The report: history of several attempts, pictures, and a page that stands alone and trusts no name."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.dataset import CocoDataset, open_dataset
from sam3ft_trainer.evaluate.postprocess import Limits
from sam3ft_trainer.evaluate.read import truth_of
from sam3ft_trainer.evaluate.report.build import build_report, collect, save_pictures
from sam3ft_trainer.evaluate.report.history import read_history, tell
from sam3ft_trainer.evaluate.report.pictures import make_pictures, outline
from sam3ft_trainer.evaluate.report.plots import Series, curve, smoothed
from sam3ft_trainer.evaluate.report.view import duration, percent, rough_duration
from sam3ft_trainer.evaluate.scores import SplitScores, score_detections
from sam3ft_trainer.evaluate.truth import Detection, Rle, Truth

LPBF = Path(__file__).parents[2] / "assets" / "lpbf"
HOSTILE = "<script>alert('1')</script>"


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"data": {"uri": str(LPBF)}, "scratch": {"enable_segmentation": True}, "identity": {"name": "lpbf"}}
    )


@pytest.fixture(scope="module")
def dataset(config: TrainingConfig) -> CocoDataset:
    found = open_dataset(config, "test")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def truth(dataset: CocoDataset) -> Truth:
    return truth_of(dataset, masks=True)


def _scores(truth: Truth, score: float) -> SplitScores:
    found = [Detection(i.image_id, i.category_id, score, i.box_xywh, i.rle) for i in truth.objects]
    return score_detections(truth, found, split="test", limits=Limits(), masks=True, pictures=2)


def _interval(step: int, loss: float | None = 1.0) -> dict[str, Any]:
    return {"ts": 100.0 + step, "event": "train_interval", "step": step, "loss": loss, "lr": 1e-4, "images_per_s": 2.0}


EVENTS: list[dict[str, Any]] = [
    {"ts": 100.0, "event": "started", "total_steps": 60, "world_size": 1},
    {"ts": 101.0, "event": "evaluation", "split": "valid", "step": 0, "metrics": {"bbox_AP": 0.1}, "baseline": True},
    *(_interval(step, loss=float(step)) for step in (10, 20, 30)),
    {"ts": 140.0, "event": "step_skipped", "step": 31, "loss": None, "grad_norm": None},
    {"ts": 150.0, "event": "resumed", "step": 20, "total_steps": 60, "world_size": 2},
    *(_interval(step, loss=step + 0.5) for step in (30, 40)),
    {"ts": 160.0, "event": "evaluation", "split": "valid", "step": 40, "metrics": {"bbox_AP": 0.2, "cgF1": None}},
    {"ts": 170.0, "event": "exported", "address": "s3://models/lpbf", "largest_difference": 0.0},
]


def test_steps_done_again_after_a_resume_stand_once() -> None:
    history = tell(EVENTS)

    assert [(10, 10.0), (20, 20.0), (30, 30.5), (40, 40.5)] == [(item.step, item.loss) for item in history.intervals]
    assert (2, 2, 60, 1) == (history.attempts, history.world_size, history.total_steps, history.skipped_steps)
    assert [
        "update 31 was left out: its loss or gradient was not finite (loss: not a number)",
        "resumed from step 20",
    ] == [item.text for item in history.incidents]
    assert history.export is not None
    assert "s3://models/lpbf" == history.export["address"]


def test_what_came_before_a_start_from_the_beginning_is_no_part_of_the_history() -> None:
    before = [{**event, "ts": 1.0} for event in EVENTS if event["event"] != "resumed"]

    history = tell([*before, *EVENTS])

    assert tell(EVENTS).intervals == history.intervals
    assert tell(EVENTS).evaluations == history.evaluations
    assert tell(EVENTS).incidents == history.incidents
    assert 3 == history.attempts


def test_a_torn_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    log.write_text("\n".join(json.dumps(event) for event in EVENTS[:3]) + '\n{"ts": 1, "eve')

    history = read_history(log)

    assert (1, 1) == (len(history.intervals), history.unreadable_lines)
    assert 0 == read_history(tmp_path / "absent").attempts


def test_pictures_show_detections_above_the_threshold_or_else_the_best(dataset: CocoDataset, truth: Truth) -> None:
    sure = make_pictures(dataset, truth, _scores(truth, 0.8), threshold=0.5)
    unsure = make_pictures(dataset, truth, _scores(truth, 0.2), threshold=0.5)

    assert (0.5, None) == (sure.threshold, unsure.threshold)
    assert 2 == len(sure.pictures) == len(unsure.pictures)
    for picture in (*sure.pictures, *unsure.pictures):
        assert (600, 600) == (picture.width, picture.height)
        assert len(picture.truth) == len(picture.found) > 0
        assert all(shape.path.startswith("M") for shape in picture.truth)


def test_the_outline_of_a_mask_follows_its_border() -> None:
    mask = np.zeros((40, 60), dtype=np.uint8, order="F")
    mask[10:20, 30:50] = 1
    rle = Rle(size=[40, 60], counts=coco_mask.encode(mask)["counts"].decode())

    points = np.array(
        [[float(v) for v in pair.split()] for pair in re.findall(r"[\d.]+ [\d.]+", outline(rle, (20, 30)))]
    )

    assert [15, 5] == pytest.approx(points.min(axis=0).tolist(), abs=0.6)
    assert [25, 10] == pytest.approx(points.max(axis=0).tolist(), abs=0.6)
    assert "" == outline(None, (20, 30))


class _Page(HTMLParser):
    """Collects tags and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]


@pytest.fixture
def work_dir(tmp_path: Path, config: TrainingConfig, dataset: CocoDataset, truth: Truth) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    scores = _scores(truth, 0.8)
    (folder / "events.jsonl").write_text("\n".join(json.dumps(event) for event in EVENTS))
    (folder / "config.json").write_text(config.model_dump_json())
    account = dataset.report.to_json()
    account["problems"] = [{"kind": "junk_file", "severity": "notice", "count": 1, "examples": [HOSTILE]}]
    (folder / "dataset.json").write_text(json.dumps({"train": account, "test": account}))
    rows = tuple(row.model_copy(update={"name": HOSTILE}) for row in scores.per_class)
    final = scores.model_copy(update={"per_class": rows}).without_pictures()
    (folder / "scores.json").write_text(json.dumps({"final": final.model_dump(mode="json")}))
    hostile = replace(truth, categories=dict.fromkeys(truth.categories, HOSTILE))
    save_pictures(folder, dataset, hostile, scores, threshold=0.5)
    return folder


def test_the_page_stands_alone_and_escapes_every_name(work_dir: Path) -> None:
    build_report(work_dir, work_dir / "report.html")
    text = (work_dir / "report.html").read_text()
    page = _Page()
    page.feed(text)

    assert "script" not in page.tags
    assert "&lt;script&gt;" in text
    assert [] == [item for item in page.addresses if not item.startswith(("#", "data:image/jpeg;base64,"))]
    assert 2 == page.tags.count("figure")
    assert 4 == page.tags.count("h1") + 3
    for heading in ("What to do next", "Scores", "Curves", "Categories", "Pictures", "Data", "Run", "Model"):
        assert f"<h2>{heading}</h2>" in text
    assert "Junk file" in text
    assert "equal to the last bit" in text
    assert 'from_pretrained("./lpbf")' in text
    assert [] == list(work_dir.glob(".*.tmp"))


def test_a_run_that_has_just_begun_has_a_report(tmp_path: Path) -> None:
    build_report(tmp_path, tmp_path / "report.html")

    text = (tmp_path / "report.html").read_text()
    assert "The run has not trained yet." in text
    assert "nan" not in text.lower().replace("finance", "")


def test_a_run_in_its_middle_shows_its_curves(work_dir: Path) -> None:
    (work_dir / "scores.json").unlink()
    (work_dir / "pictures.json").unlink()

    report = collect(work_dir)
    build_report(work_dir, work_dir / "report.html")

    text = (work_dir / "report.html").read_text()
    assert report.scores.final is None
    assert "Step 40 of 60" in text
    assert 2 <= text.count('<div class="card chart">')


def test_curves_take_the_colours_of_the_page() -> None:
    svg = curve([Series("a", [1, 2, 3], [1.0, None, 3.0]), Series("b", [1, 2, 3], [2.0, 2.0, 2.0], faint=True)])

    assert svg.startswith("<svg")
    assert "var(--series-0)" in svg
    assert "var(--muted)" in svg
    assert "#a1b2c1" not in svg
    assert "" == curve([Series("empty", [1], [None])])


def test_the_moving_average_starts_at_the_first_value_and_keeps_gaps() -> None:
    assert [4.0, None, pytest.approx(4.0 * 0.8 / 1.8 + 2.0 / 1.8)] == smoothed([4.0, None, 2.0])


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (42, "42 s", "42 s"),
        (425, "7 min 5 s", "7 min"),
        (7200, "2 h", "2.0 h"),
        (12000, "3 h 20 min", "3.3 h"),
        (190000, "2 d 4 h", "2.2 d"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, exact: str, rough: str) -> None:
    assert (exact, rough) == (duration(seconds), rough_duration(seconds))


def test_shares_are_shown_in_percent() -> None:
    assert ["12.3", "+4.0", "\N{EN DASH}"] == [percent(0.1234), percent(0.04, signed=True), percent(None)]
