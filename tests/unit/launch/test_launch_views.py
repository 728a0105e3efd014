"""What people and machines see while a run goes on."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sam3ft_api.worker import Progress
from sam3ft_launch.backend import Observed, RunState
from sam3ft_launch.cli.follow import JsonView, LineView
from sam3ft_launch.cli.live import duration, progress_line, progress_view
from sam3ft_launch.cli.scores import read_scores, score_lines
from sam3ft_launch.cli.summary import ending_lines

PROGRESS = Progress(
    state="training",
    step=30,
    total_steps=120,
    epoch=1.25,
    eta_s=3725.4,
    images_per_s=12.34,
    loss=17.25,
    best_metric="bbox_AP",
    best_value=0.25,
    best_step=20,
    checkpoint_step=24,
    skipped_steps=2,
)


def observed(progress: Progress | None) -> Observed:
    return Observed(RunState.RUNNING, progress=progress, restarts=1)


def drawn(progress: Progress | None, phase: str = "Running") -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(progress_view(progress, phase=phase, restarts=0))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_a_line_holds_every_known_figure():
    expected = (
        "training  step 30/120  ETA 1:02:05  epoch 1.25  loss 17.25  12.3 images/s  "
        "best bbox_AP 0.250 at step 20  checkpoint 24  2 skipped steps  1 restarts"
    )

    assert expected == progress_line(PROGRESS, restarts=1)


def test_unknown_figures_are_left_out():
    assert "loading  step 0/0  epoch 0.00" == progress_line(Progress(state="loading"), restarts=0)


def test_the_live_display_shows_bar_step_and_eta():
    text = drawn(PROGRESS)

    assert "30/120" in text
    assert "ETA 1:02:05" in text
    assert "loss 17.25" in text


def test_the_live_display_waits_for_the_first_report():
    assert "Pending ..." in drawn(None, "Pending")


def test_a_run_without_a_length_yet_can_be_drawn():
    assert "0/0" in drawn(Progress(state="loading"))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (90_000, "1 day, 1:00:00"), (-5, "0:00:00")]
)
def test_durations_are_whole_seconds(seconds: float, text: str):
    assert text == duration(seconds)


def test_lines_come_at_changes_of_state_and_of_scores_not_at_every_step(capsys: pytest.CaptureFixture[str]):
    view = LineView(every_s=3600)
    later = PROGRESS.model_copy(update={"step": 31})
    scored = later.model_copy(update={"metrics": {"bbox_AP": 0.5}})
    done = scored.model_copy(update={"state": "finished"})

    for progress in (None, PROGRESS, PROGRESS, later, scored, done):
        view.show(observed(progress))

    assert ["training", "training", "finished"] == [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_lines_come_after_a_while_when_only_the_step_changes(capsys: pytest.CaptureFixture[str]):
    view = LineView(every_s=0)

    for step in range(3):
        view.show(observed(PROGRESS.model_copy(update={"step": step})))

    assert 3 == len(capsys.readouterr().out.splitlines())


def test_machines_get_the_whole_progress(capsys: pytest.CaptureFixture[str]):
    view = JsonView()

    view.show(observed(PROGRESS))
    view.say("a word")

    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert ("progress", 30, 17.25, 1) == (first["event"], first["step"], first["loss"], first["restarts"])
    assert {"event": "notice", "message": "a word"} == second


def test_the_ending_names_code_rank_and_advice():
    end = {
        "state": RunState.FAILED,
        "code": 11,
        "reason": "InvalidDataset",
        "message": "image 7 is missing",
        "advice": "Correct the images or annotations named in the message.",
        "failed_rank": 1,
        "step": 3,
        "metrics": {},
        "scores": None,
        "places": {"folder": "/r"},
    }

    lines = ending_lines("cells", end)

    assert [
        (
            "cells ended with InvalidDataset (code 11, rank 1 failed first): image 7 is missing\n"
            "  Correct the images or annotations named in the message."
        ),
        "  folder       /r",
    ] == lines


def test_final_scores_are_shown_before_and_after(tmp_path: Path):
    path = tmp_path / "scores.json"
    final = {"split": "test", "images": 30, "metrics": {"bbox_AR": 0.5, "bbox_AP": 0.25, "segm_AP": None}, "seconds": 1}
    baseline = {"split": "test", "images": 30, "metrics": {"bbox_AP": 0.125}}
    path.write_text(json.dumps({"final": final, "baseline": baseline, "hf_call": None, "chosen": {"step": 3}}))

    scores = read_scores(path)

    assert scores is not None
    assert [
        "  scores on test (30 images)        before       after",
        "    bbox_AP                         0.1250      0.2500",
        "    bbox_AR                              -      0.5000",
    ] == score_lines(scores)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"final": 3}'])
def test_scores_that_cannot_be_read_are_left_out(tmp_path: Path, text: str):
    (tmp_path / "scores.json").write_text(text)

    assert read_scores(tmp_path / "scores.json") is None
    assert read_scores(tmp_path / "nothing.json") is None
