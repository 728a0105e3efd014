"""All sinks as one: what they get, what of it the run tells, and what the document and the environment say of them."""

import json
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError
from waiting import wait_for

from sam3ft_api.sinks import SECRETS, VARIABLES
from sam3ft_api.training import IdentityConfig, TrackingConfig, TrainingConfig
from sam3ft_api.worker import ENV_CREDENTIALS_DIR, Progress, SinkFigures
from sam3ft_trainer.run.events import RunReporter
from sam3ft_trainer.run.sinks import sinks
from sam3ft_trainer.run.sinks.feed import Feed
from sam3ft_trainer.run.sinks.otlp_sink import CURVES, SCORE, TERM, instrument_of
from sam3ft_trainer.run.sinks.sink import Point, SinkContext
from sam3ft_trainer.run.sinks.sinks import MAX_CURVES, MAX_SETTING_CHARS, Sinks, flat_settings, open_sinks
from sam3ft_trainer.run.sinks.variables import prepare_environment
from sam3ft_trainer.run.sinks.words import secret_texts, speaker


class Kept:
    """A sink that keeps what it gets, or refuses it."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.points: list[Point] = []
        self.refuses = refuses
        self.closed: bool | None = None

    def open(self, context: SinkContext) -> None:
        self.context = context

    def scalars(self, point: Point) -> None:
        if self.refuses:
            raise ConnectionRefusedError("nobody listens")
        self.points.append(point)

    def close(self, *, is_complete: bool) -> None:
        self.closed = is_complete


def joined(folder: Path, **kept: Kept) -> Sinks:
    context = SinkContext("blood", "u1", "0" * 32, 1, "sam3ft", folder)
    feeds = [Feed(name, sink, context, words=speaker(()), pause=lambda _failures: 0.0) for name, sink in kept.items()]
    return Sinks(feeds, clock=lambda: 1_764_000_000.0)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_every_sink_gets_the_finite_values_and_the_progress_counts_them(tmp_path: Path):
    first, second = Kept(), Kept(refuses=True)
    reporter = RunReporter(
        tmp_path,
        run="blood",
        attempt=1,
        tensorboard=False,
        echo=False,
        sinks=joined(tmp_path, wandb=first, otlp=second),
    )
    reporter.progress(state="training", step=10)

    reporter.scalars(10, {"train/loss": 1.5, "train/lr": 0.1, "train/grad_norm": float("nan")})
    reporter.progress(state="finished")
    reporter.close_sinks(30.0)
    reporter.close()

    assert [Point(10, 1_764_000_000.0, {"train/loss": 1.5, "train/lr": 0.1})] == first.points
    assert (True, True) == (first.closed, second.closed)
    progress = Progress.model_validate_json((tmp_path / "progress.json").read_bytes())
    assert progress.figures is not None
    assert {"wandb": SinkFigures(sent=2), "otlp": SinkFigures(lost=2)} == progress.figures.sinks
    told = lines(tmp_path)
    assert {"sink_failed", "sinks_closed"} == {line["event"] for line in told}
    assert "ConnectionRefusedError: nobody listens" == told[0]["message"]
    assert {"wandb": {"sent": 2, "lost": 0}, "otlp": {"sent": 0, "lost": 2}} == told[-1]["sinks"]


def test_a_run_that_ends_before_its_end_says_so(tmp_path: Path):
    kept = Kept()
    reporter = RunReporter(
        tmp_path, run="blood", attempt=1, tensorboard=False, echo=False, sinks=joined(tmp_path, wandb=kept)
    )
    reporter.scalars(1, {"train/loss": 1.5})
    reporter.close_sinks(30.0)
    reporter.close()

    assert kept.closed is False


def test_without_sinks_nothing_of_them_is_told(tmp_path: Path):
    reporter = RunReporter(tmp_path, run="blood", attempt=1, tensorboard=False, echo=False)
    reporter.scalars(1, {"train/loss": 1.5})
    reporter.close()

    assert [] == lines(tmp_path)
    assert Progress.model_validate_json((tmp_path / "progress.json").read_bytes()).figures is None


def test_a_field_that_progress_lacks_is_an_error_of_the_writer(tmp_path: Path):
    reporter = RunReporter(tmp_path, run="blood", attempt=1, tensorboard=False, echo=False)

    with pytest.raises(TypeError, match="Progress has no stpe"):
        reporter.progress(force=True, stpe=1)


def test_figures_of_sinks_stand_beside_those_of_the_steps(tmp_path: Path):
    kept = Kept()
    reporter = RunReporter(
        tmp_path, run="blood", attempt=1, tensorboard=False, echo=False, sinks=joined(tmp_path, mlflow=kept)
    )
    reporter.scalars(1, {"train/loss": 1.5})
    wait_for("the value is taken", lambda: len(kept.points) == 1, within_s=30)
    reporter.progress(state="training", step=1, figures={"grad_norm": 0.5}, force=True)

    progress = Progress.model_validate_json((tmp_path / "progress.json").read_bytes())
    reporter.close()
    assert progress.figures is not None
    assert (0.5, {"mlflow": SinkFigures(sent=1)}) == (progress.figures.grad_norm, progress.figures.sinks)


def test_names_without_end_are_lost_and_counted(tmp_path: Path):
    kept = Kept()
    together = joined(tmp_path, wandb=kept)
    together.offer(1, {f"terms/{number}": 1.0 for number in range(MAX_CURVES)})
    together.offer(2, {"terms/0": 2.0, "one/more": 1.0})
    together.close(is_complete=True)

    assert {"wandb": {"sent": MAX_CURVES + 1, "lost": 1}} == together.figures()
    assert [f"more than {MAX_CURVES} curves"] == [news["message"] for news in together.news()]
    assert {"terms/0": 2.0} == kept.points[1].values


def test_all_sinks_share_the_time_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate, entered = threading.Event(), threading.Semaphore(0)

    class Stuck(Kept):
        def scalars(self, point: Point) -> None:  # noqa: ARG002 - as every sink's
            entered.release()
            gate.wait(60)

    together = joined(tmp_path, wandb=Stuck(), mlflow=Stuck(), otlp=Kept())
    now_s = [0.0]
    waited: list[float] = []

    def leave(feed: Feed, within_s: float) -> None:
        waited.append(within_s)
        now_s[0] += max(0.0, within_s)
        wait_for_end(feed, 0.0 if feed.name != "otlp" else 30.0)

    wait_for_end = Feed.leave
    together.offer(1, {"train/loss": 1.0})
    assert entered.acquire(timeout=30)
    assert entered.acquire(timeout=30)
    monkeypatch.setattr(Feed, "leave", leave)
    monkeypatch.setattr(sinks.time, "monotonic", lambda: now_s[0])

    together.close(is_complete=True, within_s=5.0)

    monkeypatch.undo()
    gate.set()
    assert [5.0, 0.0, 0.0] == waited
    assert {"wandb": 1, "mlflow": 1, "otlp": 0} == {name: it["lost"] for name, it in together.figures().items()}


# --- the document and the environment ---------------------------------------------------------------------------------


def test_a_document_names_sinks_once_and_its_numbers_stay():
    config = TrainingConfig(tracking=TrackingConfig(sinks=("wandb", "otlp"), project="cells-2"))

    assert TrainingConfig().numbers_digest() == config.numbers_digest()
    for wrong in ({"sinks": ["wandb", "wandb"]}, {"sinks": ["tensorboard"]}, {"project": "a/b"}, {"project": ""}):
        with pytest.raises(ValidationError):
            TrackingConfig.model_validate(wrong)


def test_without_sinks_neither_folder_nor_environment_is_touched(tmp_path: Path):
    environ: dict[str, str] = {}

    open_sinks(TrainingConfig(), work_dir=tmp_path, attempt=1, environ=environ).offer(1, {"train/loss": 1.0})

    assert ({}, []) == (environ, list(tmp_path.iterdir()))


def test_the_key_of_a_run_is_its_own_and_the_same_in_every_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[SinkContext] = []
    monkeypatch.setattr(sinks, "Feed", lambda _name, _sink, context, **_words: made.append(context))
    for name, uid, attempt in (("a", "1", 1), ("a", "1", 2), ("a", "2", 1), ("b", "1", 1)):
        identity = IdentityConfig(name=name, uid=uid)
        config = TrainingConfig(identity=identity, tracking=TrackingConfig(sinks=("otlp",)))
        open_sinks(config, work_dir=tmp_path, attempt=attempt, environ={})

    keys = [context.key for context in made]
    assert keys[0] == keys[1]
    assert 3 == len(set(keys))
    assert all(32 == len(key) for key in keys)
    assert (tmp_path / "sinks" / "otlp").is_dir()


def test_settings_are_flat_short_and_without_secrets():
    config = TrainingConfig.model_validate(
        {"data": {"uri": "s3://user:hunter22@host/x", "phrases": {f"c{n}": [f"cell {n}"] for n in range(100)}}}
    )

    settings = flat_settings(config)

    assert str(config.scratch.resolution) == settings["scratch.resolution"]
    assert not {name for name in settings if name.startswith(("identity.", "tracking."))}
    assert MAX_SETTING_CHARS == max(map(len, settings.values()))
    assert not any("hunter22" in value for value in settings.values())


def test_a_secret_of_the_run_reaches_the_enabled_sinks_alone(tmp_path: Path):
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / name).write_text(f"{name} of the Secret\n")
    environ = {ENV_CREDENTIALS_DIR: str(tmp_path), "WANDB_BASE_URL": "https://own"}

    prepare_environment(("wandb",), environ, tmp_path / "sinks")

    assert "WANDB_API_KEY of the Secret" == environ["WANDB_API_KEY"]
    assert "https://own" == environ["WANDB_BASE_URL"]
    assert not {"MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(environ)
    assert str(tmp_path / "sinks" / "wandb") == environ["WANDB_CONFIG_DIR"]


def test_variables_of_the_user_win(tmp_path: Path):
    (tmp_path / "WANDB_API_KEY").write_text("of the Secret")
    given = {ENV_CREDENTIALS_DIR: str(tmp_path), "WANDB_API_KEY": "mine", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
    environ = dict(given)

    prepare_environment(("wandb", "mlflow"), environ, tmp_path)

    assert given == {name: environ[name] for name in given}


def test_secrets_known_by_value_are_shown_in_no_form():
    environ = {
        "WANDB_API_KEY": "0123456789abcdef",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cr3tword,api-key=an0therOne",
        "WANDB_ENTITY": "my-team",
    }
    speak = speaker(secret_texts(environ))

    said = speak(
        ValueError("0123456789abcdef Bearer s3cr3tword Bearer%20s3cr3tword an0therOne s3cr3tword my-team x" + "y" * 999)
    )

    assert not any(secret in said for secret in ("0123456789abcdef", "s3cr3tword", "an0therOne"))
    assert "my-team" in said
    assert 500 == len(said)


def test_every_secret_is_a_variable_of_a_sink():
    assert SECRETS < set().union(*VARIABLES.values())
    assert set(VARIABLES) == set(sinks._SINKS)


def test_every_curve_has_a_gauge_of_its_own():
    found = {name: instrument_of(name) for name in (*CURVES, "terms/loss_bbox", "valid/bbox_AP", "test/cgF1")}

    assert (TERM, {"term": "loss_bbox"}) == found["terms/loss_bbox"]
    assert (SCORE, {"split": "valid", "metric": "bbox_AP"}) == found["valid/bbox_AP"]
    assert len(CURVES) + 2 == len({instrument.name for instrument, _ in found.values()})
    assert all(instrument.unit.startswith("{") for instrument, _ in found.values())
