"""What the coordinator shows to Prometheus, and what no launcher can make of it."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics_bench import PROGRESS, Samples, hello, samples, scraped, started
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from rounds_bench import TOKEN

from sam3ft_api import limits
from sam3ft_api.messages import Heartbeat, Pong, Ready, encode
from sam3ft_api.worker import Progress, RankFigures, StepFigures
from sam3ft_launch.coordinator.exposition import KEPT_S, Exposition
from sam3ft_launch.coordinator.metrics import MAX_NAMES, finite
from sam3ft_launch.coordinator.server import Address, Server, serve_until
from sam3ft_launch.coordinator.settings import Settings

# --- what the trainer relays -----------------------------------------------------------------------------------------


def test_what_rank_0_relays_is_shown_under_the_names_of_its_fields():
    run = started(2)
    run.say(0, Heartbeat(seq=1, step=120, commit_step=100, progress=PROGRESS))

    expected = {
        "step": 120.0,
        "planned_steps": 400.0,
        "epoch": 1.5,
        "eta_seconds": 280.0,
        "images_per_second": 12.5,
        "learning_rate": 8e-5,
        "world_size": 4.0,
        "skipped_steps": 1.0,
        "bad_images": 2.0,
        "best_step": 100.0,
        "checkpoint_step": 100.0,
        "last_step_timestamp_seconds": 1_764_000_000.0,
    }
    assert expected == {name: run.value(f"sam3ft_train_{name}") for name in expected}
    assert 3.25 == run.value("sam3ft_train_loss", component="total")
    assert 0.41 == run.value("sam3ft_train_eval_metric", name="bbox_AP")
    assert 0.43 == run.value("sam3ft_train_best_metric", name="bbox_AP")
    assert {"training": 1.0} == run.positive("sam3ft_train_state")


def test_what_is_not_known_has_no_series():
    run = started(1)
    assert [] == [name for name, _ in run.samples() if name.startswith("sam3ft_train_")]

    run.say(0, Heartbeat(seq=1, progress=Progress(state="loading")))

    shown = {name for name, _ in run.samples() if name.startswith("sam3ft_train_")}
    assert {"sam3ft_train_state", "sam3ft_train_steps_total"} == shown

    run.say(0, Heartbeat(seq=2, progress=Progress(state="training", step=3)))

    shown = {name for name, _ in run.samples() if name.startswith("sam3ft_train_")}
    assert not shown & {"sam3ft_train_loss", "sam3ft_train_eta_seconds", "sam3ft_train_checkpoint_timestamp_seconds"}
    assert "sam3ft_train_step" in shown


def test_curves_of_the_steps_are_shown():
    run = started(2)
    run.say(0, Heartbeat(seq=1, progress=PROGRESS))

    assert {"total": 3.25, "loss_bbox": 0.25, "loss_ce": 2.5} == run.positive("sam3ft_train_loss")
    assert {"ce_f1": 0.75} == run.positive("sam3ft_train_batch_score")
    expected = {
        "grad_norm": 1.5,
        "flops_utilization_ratio": 0.31,
        "data_wait_seconds_total": 4.5,
        "checkpoint_duration_seconds": 2.25,
        "checkpoint_bytes": 4096.0,
    }
    assert expected == {name: run.value(f"sam3ft_train_{name}") for name in expected}
    assert {"0": 100.0, "1": 200.0} == run.positive("sam3ft_train_resident_memory_bytes")
    assert {"wandb": 120.0, "otlp": 123.0} == run.positive("sam3ft_train_sink_values_total")
    assert {"wandb": 3.0} == run.positive("sam3ft_train_sink_lost_total")
    assert {"0": 10.0} == run.positive("sam3ft_train_gpu_memory_bytes")
    assert {"0": 0.875} == run.positive("sam3ft_train_gpu_utilization_ratio")
    assert {"0": 20.0} == run.positive("sam3ft_train_gpu_used_memory_bytes")
    assert {"0": 612.5} == run.positive("sam3ft_train_gpu_power_watts")
    assert {"0": 61.0} == run.positive("sam3ft_train_gpu_temperature_celsius")
    parts = [run.value("sam3ft_train_rank_step_seconds", rank="1", part=part) for part in ("data", "peers", "forward")]
    assert [0.25, None, 0.5] == parts


def test_durations_of_steps_are_a_cumulative_histogram():
    run = started(1)
    run.say(0, Heartbeat(seq=1, progress=PROGRESS))

    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in run.samples().items()
        if name == "sam3ft_train_step_duration_seconds_bucket"
    }
    assert (0.0, 2.0, 5.0, 6.0) == tuple(buckets[bound] for bound in ("0.75", "1.0", "1.5", "+Inf"))
    assert 6.0 == run.value("sam3ft_train_step_duration_seconds_count")
    assert 120.5 == run.value("sam3ft_train_step_duration_seconds_sum")


def test_terms_of_the_loss_beyond_the_bound_are_left_out():
    run = started(1)
    for number in range(2 * MAX_NAMES):
        figures = StepFigures(losses={f"term_{number}": 1.0, "total": 9.0, 'x"} 1': 1.0})
        run.say(0, Heartbeat(seq=number + 1, progress=PROGRESS.model_copy(update={"figures": figures})))
        shown = run.positive("sam3ft_train_loss")

    assert MAX_NAMES == len(run.metrics._losses)
    assert {"total": 3.25} == shown


def test_a_rank_that_appears_twice_is_refused():
    with pytest.raises(ValueError, match="a rank has its figures once"):
        StepFigures(ranks=(RankFigures(rank=1), RankFigures(rank=1)))


# --- what launchers send is not believed -----------------------------------------------------------------------------

HUGE = 10**400


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, HUGE, -HUGE, None])
def test_numbers_that_prometheus_cannot_keep_are_left_out(value: float | None):
    assert finite(value) is None


def test_hostile_figures_make_no_series_and_no_error():
    run = started(1)
    line = {"v": 1, "type": "hb", "seq": 1, "restarts": HUGE, "progress": json.loads(PROGRESS.model_dump_json())}
    line["progress"] |= {"state": 'a"} 1\nsam3ft_x 1', "step": HUGE, "total_steps": -HUGE, "world_size": HUGE}
    line["progress"] |= {"metrics": {'a"\n{}': 1.0, "": 2.0, "\u202e": 3.0, "bbox_AP": 0.5}, "best_metric": "x" * 65}
    run.say(0, Heartbeat.model_validate_json(json.dumps(line)))

    assert {"other": 1.0} == run.positive("sam3ft_train_state")
    assert {"bbox_AP": 0.5} == run.positive("sam3ft_train_eval_metric")
    absent = ("train_step", "train_planned_steps", "train_world_size", "group_node_restarts_total", "train_best_metric")
    shown = {name for name, _ in run.samples()}
    assert [] == [name for name in absent if f"sam3ft_{name}" in shown]


def test_names_of_metrics_that_change_for_ever_stay_few():
    run = started(1)
    for number in range(2 * MAX_NAMES):
        metrics = {f"m{number}": 1.0, "m0": 2.0}
        run.say(0, Heartbeat(seq=1, progress=PROGRESS.model_copy(update={"metrics": metrics, "best_metric": None})))
        run.samples()

    assert {"m0": 2.0} == run.positive("sam3ft_train_eval_metric")
    assert MAX_NAMES == len(run.metrics._eval_names)


@settings(max_examples=60, deadline=None)
@given(
    state=st.text(min_size=1, max_size=64),
    names=st.dictionaries(st.text(max_size=70), st.floats(allow_nan=False, allow_infinity=False), max_size=12),
    step=st.integers(),
    loss=st.floats(),
)
def test_whatever_is_relayed_both_formats_can_be_read(state: str, names: dict[str, float], step: int, loss: float):
    run = started(1)
    progress = Progress(state=state, metrics=names, step=step, loss=loss)
    run.rounds.progress = progress
    run.counts.learn(progress, now_unix_s=0.0)
    exposition = Exposition(run.rounds, run.counts)

    text = scraped(exposition.answer("text/plain", now_s=run.now_s)[1].decode())
    _, body = exposition.answer("application/openmetrics-text;version=1.0.0,*/*;q=0.1", now_s=run.now_s)
    opened = {name for family in openmetrics_families(body.decode()) for name in {it.name for it in family.samples}}
    assert {name for name, _ in text} == opened


def test_both_formats_have_every_figure_of_every_rank():
    run = started(1)
    run.say(0, Heartbeat(seq=1, progress=PROGRESS))
    exposition = Exposition(run.rounds, run.counts)
    _, text = exposition.answer("", now_s=run.now_s)
    _, opened = exposition.answer("application/openmetrics-text", now_s=run.now_s)

    ranks = {key: value for key, value in scraped(text.decode()).items() if "rank" in dict(key[1])}
    assert len(ranks) == 12
    assert ranks.items() <= samples(openmetrics_families(opened.decode())).items()
    assert opened.endswith(b"\n# EOF\n")
    assert 1 == opened.count(b"# EOF")


@pytest.mark.parametrize("state", ["checking", "loading"])
def test_before_training_no_rank_has_figures(state: str):
    run = started(1)
    run.say(0, Heartbeat(seq=1, progress=PROGRESS.model_copy(update={"state": state})))

    assert {} == run.positive("sam3ft_train_resident_memory_bytes")


def test_the_largest_group_has_a_bounded_answer():
    run = started(limits.MAX_NODES)
    run.say(0, Heartbeat(seq=1, progress=PROGRESS))

    assert len(run.samples()) < 3 * limits.MAX_NODES + 150


# --- over HTTP -------------------------------------------------------------------------------------------------------


def scrape_after(talk: Callable[[Address], Awaitable[None]], accept: str = "*/*") -> tuple[str, str]:
    """Return head and body of a scrape after a conversation with the launchers' port."""
    heard: list[str] = []

    async def run() -> None:
        server = Server(Settings(), token=TOKEN)
        launchers, viewers = await server.listen(Address("127.0.0.1", 0), Address("127.0.0.1", 0))

        async def both() -> None:
            await talk(launchers)
            reader, writer = await asyncio.open_connection(viewers.host, viewers.port)
            writer.write(f"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\naccept: {accept}\r\n\r\n".encode())
            heard.append((await reader.read()).decode())
            writer.close()

        await serve_until(lambda: asyncio.wait_for(both(), 10), server)

    asyncio.run(run())
    head, _, body = heard[0].partition("\r\n\r\n")
    return head, body


async def nothing(_: Address) -> None:
    """Say nothing."""


def test_a_scrape_before_anybody_is_there_shows_zeros():
    head, body = scrape_after(nothing)

    assert "200 OK" in head
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in head
    found = scraped(body)
    assert 0.0 == found["sam3ft_group_rounds_total", (("cause", "lost"),)]
    assert 1.0 == found["sam3ft_group_state", (("state", "waiting"),)]
    assert found["process_resident_memory_bytes", ()] > 1e6


def test_openmetrics_is_spoken_to_those_who_ask_for_it():
    head, body = scrape_after(nothing, "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;q=0.1")

    assert "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n" in head
    assert body.endswith("# EOF\n")
    assert "sam3ft_group_joins" in {family.name for family in openmetrics_families(body)}


def refusals(found: Samples) -> dict[str, float]:
    name = "sam3ft_group_connections_refused_total"
    return {labels[0][1]: value for (found_name, labels), value in found.items() if found_name == name and value}


def test_connections_that_get_no_further_are_counted_by_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_launch.coordinator.server._HELLO_WITHIN_S", 0.3)
    lines = [
        hello(token="another-token-of-16"),  # noqa: S106 - guards nothing
        hello(attempt=2),
        hello().replace(b'"slot":0', b'"slot":0,"later":1'),
        encode(Pong(seq=1)).replace(b"pong", b"hb"),
        b"GET / HTTP/1.1\n",
        b"",
    ]

    async def talk(launchers: Address) -> None:
        reader, kept = await asyncio.open_connection(launchers.host, launchers.port)
        kept.write(hello() + encode(Heartbeat(seq=1)))
        await reader.readline()
        for line in [*lines, hello(slot=1)]:
            reader, writer = await asyncio.open_connection(launchers.host, launchers.port)
            writer.write(line)
            await reader.read()
            writer.close()
        kept.close()

    found = scraped(scrape_after(talk)[1])
    reasons = ("token", "attempt", "version", "greeting", "malformed", "slow", "slot")
    assert dict.fromkeys(reasons, 1.0) == refusals(found)
    assert 1.0 == found["sam3ft_group_joins_total", ()]


def test_strangers_that_made_room_for_others_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sam3ft_launch.coordinator.server._MAX_STRANGERS", 2)

    async def talk(launchers: Address) -> None:
        held = [await asyncio.open_connection(launchers.host, launchers.port) for _ in range(5)]
        await asyncio.gather(*(reader.read() for reader, _ in held[:3]), return_exceptions=True)
        for _, writer in held:
            writer.close()

    assert {"crowd": 3.0} == refusals(scraped(scrape_after(talk)[1]))


def test_progress_and_departures_arrive_by_the_real_connection():
    async def talk(launchers: Address) -> None:
        reader, writer = await asyncio.open_connection(launchers.host, launchers.port)
        writer.write(hello() + encode(Ready(addr="127.0.0.1", port=9)))
        await reader.readline()
        for seq, step in ((1, 10), (2, 25)):
            progress = PROGRESS.model_copy(update={"step": step, "checkpoint_step": step})
            writer.write(encode(Heartbeat(seq=seq, round=1, step=step, commit_step=step, progress=progress)))
            await reader.readline()
        writer.close()
        await asyncio.sleep(0.1)

    found = scraped(scrape_after(talk)[1])
    assert 15.0 == found["sam3ft_train_steps_total", ()]
    assert 25.0 == found["sam3ft_train_checkpoint_step", ()]
    assert found["sam3ft_train_checkpoint_timestamp_seconds", ()] > 1e9
    assert 1.0 == found["sam3ft_group_departures_total", (("cause", "closed"),)]


def test_a_scrape_is_computed_once_for_many_that_ask_and_again_a_second_later():
    run = started(1)
    exposition = Exposition(run.rounds, run.counts)
    first = exposition.answer("", now_s=run.now_s)
    run.counts.joins += 5

    assert first == exposition.answer("", now_s=run.now_s + 0.9 * KEPT_S)
    assert 6.0 == scraped(exposition.answer("", now_s=run.now_s + KEPT_S)[1].decode())["sam3ft_group_joins_total", ()]
