"""Real launchers, ranks and a coordinator over a run in a bucket: drawn schedules of kills and resizes lose nothing."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_bench import Bench, Undisturbed, assert_each_image_of_each_epoch_once, state_hashes
from node_bench import Nodes, play
from outage_bench import outage_bench
from s3_server import S3Server
from safetensors.torch import load_file

from sam3ft_api.training import StorageConfig
from sam3ft_faults.record import Figures
from sam3ft_trainer.store.access import run_access

pytestmark = pytest.mark.timeout(1800)
Make = Callable[[int], Bench]
Runs = Callable[[int], Undisturbed]
MOST = 4


@pytest.fixture
def nodes_of(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> Iterator[Callable[[Bench], Nodes]]:
    made: list[Nodes] = []
    with_proxy = []

    def make(bench: Bench) -> Nodes:
        context = outage_bench(s3_server, s3_bucket, bench)
        site = context.__enter__()
        with_proxy.append(context)
        nodes = Nodes(tmp_path, site.bench.spec("nodes"), site.environment)
        made.append(nodes)
        return nodes

    yield make
    for nodes in made:
        nodes.close()
    for context in with_proxy:
        context.__exit__(None, None, None)


def losses(folder: Path) -> dict[int, float]:
    """Loss by step; a step that was done again said the same before."""
    found: dict[int, float] = {}
    for path in folder.rglob("events.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["event"] == "train_interval":
                before = found.setdefault(event["step"], event["loss"])
                assert before == pytest.approx(event["loss"], rel=1e-3)
    return found


def work_folders(nodes: Nodes) -> list[Path]:
    return sorted(nodes.folder.glob("work-*"))


def check_schedule(
    number: int, undisturbed: Undisturbed, nodes: Nodes, *, first: int, most: int, events: int, resize: bool
) -> None:
    steps = undisturbed.bench.steps
    nodes.start_coordinator(first, min_nodes=1 if resize else first)
    draw = random.Random(f"nodes-{number}")
    play(nodes, draw, first=first, most=most, events=events, steps=steps, resize=resize)
    codes = nodes.codes()

    assert set(codes.values()) == {0}, f"{codes}, {nodes.done}\n{nodes.told()}"
    assert len(nodes.done) >= first + events
    expected = assert_each_image_of_each_epoch_once(undisturbed.ended.folder, steps=steps)
    assert expected == assert_each_image_of_each_epoch_once(*work_folders(nodes), steps=steps)
    commits = nodes.history().commits
    assert [commit.meta.step for commit in commits] == sorted(commit.meta.step for commit in commits)
    images = undisturbed.commit_cursors()
    cursors = {commit.meta.step: commit.meta.cursor["images"] for commit in commits}
    assert {step: cursor for step, cursor in images.items() if step in cursors} == {
        step: cursor for step, cursor in cursors.items() if step in images
    }
    assert losses(undisturbed.ended.folder) == pytest.approx(losses(nodes.folder), rel=1e-3)


def assert_same_bits(undisturbed: Undisturbed, nodes: Nodes) -> None:
    steps = undisturbed.bench.steps
    assert nodes.config.checkpoint.uri is not None
    access = run_access(StorageConfig(), nodes.environment)
    assert undisturbed.ended.state(steps) == state_hashes(nodes.config.checkpoint.uri, steps, access=access)
    assert undisturbed.ended.weights() == (nodes.folder / "model/model.safetensors").read_bytes()


@pytest.mark.slow
def test_two_nodes_with_killed_ranks_and_launchers_end_bit_identical(
    undisturbed: Runs, like: Make, nodes_of: Callable[[Bench], Nodes]
):
    nodes = nodes_of(like(2))

    check_schedule(1, undisturbed(2), nodes, first=2, most=2, events=2, resize=False)

    assert_same_bits(undisturbed(2), nodes)


@pytest.mark.soak
@pytest.mark.parametrize("number", [2, 3, 4])
def test_one_to_four_nodes_that_come_and_go_miss_and_repeat_nothing(
    number: int, undisturbed: Runs, like: Make, nodes_of: Callable[[Bench], Nodes], figures: Figures
):
    bench = undisturbed_with_four(like)
    nodes = nodes_of(bench)
    alone = Undisturbed(bench, bench.run("alone").succeeded())

    check_schedule(number, alone, nodes, first=1 + number % 3, most=MOST, events=6, resize=True)

    mine = load_file(nodes.folder / "model/model.safetensors")
    expected = load_file(alone.ended.folder / "model/model.safetensors")
    worst = max(float((mine[name] - expected[name]).abs().max()) for name in expected)
    assert worst <= 1e-3
    figures.add(
        "nodes that come and go, 1 to 4 ranks",
        seed=number,
        events=6,
        rounds=nodes.history().generation,
        missed_images=0,
        repeated_images=0,
    )


def undisturbed_with_four(like: Make) -> Bench:
    """A global batch that four ranks can share."""
    bench = like(1)
    bench.batch, bench.steps = 4, 24
    return bench
