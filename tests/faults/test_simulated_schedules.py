"""Random schedules of kills, resizes and forgotten ghosts: the committed history has each image of each epoch once.

A schedule is its number. A series that was broken off goes on with `pytest -m soak -k 'schedule and (31 or 32)'`, or
with `--last-failed`.
"""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from s3_server import S3Server
from simulation import Fate, Incarnation, Problem, draw_problem, first_state, recomputed
from store_bench import Site, folder_site, s3_site

from sam3ft_faults.record import Figures
from sam3ft_trainer.store.history import History

QUICK = 5
ALL = 50
ON_S3 = 5
"""Every fifth schedule runs in a bucket."""
MOST_EVENTS = 9


def play(problem: Problem, site: Site, draw: random.Random) -> list[Incarnation]:
    """Live through a schedule to the end of the run; returns all incarnations in the order of their starts."""
    lives: list[Incarnation] = []
    ghosts: list[Incarnation] = []
    for event in range(MOST_EVENTS + 1):
        is_last = event == MOST_EVENTS
        kind = "finish" if is_last else draw.choice(["kill", "kill", "kill", "resize", "ghost"])
        world_size, fate = draw.randint(1, 8), Fate()
        if kind == "kill":
            at = draw.randint(1, 60) if draw.random() < 0.25 else draw.randint(40, 100 + 25 * world_size)
            fate = Fate(at, after=draw.random() < 0.5, spread_s=draw.choice([0.0, 0.01, 0.05]))
        life = Incarnation(problem, world_size, site.store, fate, pause_s=0.001)
        lives.append(life)
        if kind == "resize":
            life.stop_at = draw.randint(1, problem.steps)
        life.start()
        if kind == "ghost":
            ghosts.append(life)  # goes on beside its successors, as a node behind a cut does
            continue
        life.join()
        if life.ended == "finished":
            break
    for ghost in ghosts:
        ghost.join()
    return lives


def lineage(lives: list[Incarnation], history: History) -> list[tuple[Incarnation, int, int]]:
    """(incarnation, first step, steps done) of the parts that make up the committed run, newest first."""
    by_generation = {life.generation: life for life in lives if life.generation}
    gen_of = {commit.seq: commit.gen for commit in history.commits}
    newest = max(history.usable_commits(), key=lambda commit: commit.seq)
    parts, life, until = [], by_generation[newest.gen], newest.meta.step
    while True:
        begin = 0 if life.base is None else life.base[1]
        parts.append((life, begin, until))
        if life.base is None:
            return parts
        seq, until, _ = life.base
        life = by_generation[gen_of[seq]]


def assert_images_once(problem: Problem, parts: list[tuple[Incarnation, int, int]]) -> None:
    expected = {window.step: window for window in problem.windows()}
    used: Counter[tuple[int, int]] = Counter()
    steps: list[int] = []
    for life, begin, until in parts:
        for step in range(begin, until):
            ids = [image for rank in range(life.world_size) for image in life.shares[step, rank]]
            used.update((expected[step].epoch, image) for image in ids)
            steps.append(step)
    wanted = Counter((window.epoch, image) for window in expected.values() for image in window.image_ids)

    assert list(range(problem.steps)) == sorted(steps)
    assert wanted == used
    full_epochs = {epoch for epoch, _ in wanted} - {max(epoch for epoch, _ in wanted)}
    assert {1} == set(wanted.values())
    assert all({(epoch, image) for image in problem.image_ids} <= set(wanted) for epoch in full_epochs)


def assert_every_life_used_the_images_of_the_step(problem: Problem, lives: list[Incarnation]) -> None:
    expected = {window.step: window.image_ids for window in problem.windows()}
    for life in lives:
        for step in {step for step, _ in life.shares}:
            shares = [life.shares[step, rank] for rank in range(life.world_size) if (step, rank) in life.shares]
            if len(shares) == life.world_size:
                assert sorted(expected[step]) == sorted(image for share in shares for image in share)


def assert_states_agree(problem: Problem, lives: list[Incarnation], history: History) -> None:
    alone = recomputed(problem, None, world_size=1, until=problem.steps)
    by_generation = {life.generation: life for life in lives if life.generation}
    gen_of = {commit.seq: commit.gen for commit in history.commits}
    for life in lives:
        base = None
        if life.base is not None:
            seq, step, found = life.base
            assert by_generation[gen_of[seq]].states[step] == found, "a restore gave other bits than were committed"
            base = (step, found)
        again = recomputed(problem, base, world_size=life.world_size, until=max(life.states, default=0))
        assert {step: again[step] for step in life.states} == life.states
        for step, state in life.states.items():
            difference = np.abs(np.frombuffer(state) - np.frombuffer(alone[step]))
            assert difference.max() <= 1e-9


def assert_nobody_wrote_behind_a_fence(history: History) -> None:
    newest = 0
    for entry in history.entries:
        newest = max(newest, entry.gen)
        assert newest == entry.gen, f"log entry {entry.seq} is of generation {entry.gen}, and {newest} had claimed"


def check_schedule(number: int, site: Site) -> list[Incarnation]:
    draw = random.Random(f"schedule-{number}")
    problem = draw_problem(draw)

    lives = play(problem, site, draw)

    assert "finished" in {life.ended for life in lives}, [life.ended for life in lives]
    assert {"finished", "stopped", "killed", "fenced"} >= {life.ended for life in lives}
    history = site.history()
    assert_nobody_wrote_behind_a_fence(history)
    assert_images_once(problem, lineage(lives, history))
    assert_every_life_used_the_images_of_the_step(problem, lives)
    assert_states_agree(problem, lives, history)
    return lives


def place(number: int, s3_server: S3Server, s3_bucket: str, folder: Path) -> Site:
    return s3_site(s3_server, s3_bucket, folder) if number % ON_S3 == 0 else folder_site(folder)


@pytest.mark.parametrize("number", range(QUICK))
def test_a_schedule_of_kills_and_resizes_misses_and_repeats_nothing(
    number: int, tmp_path: Path, s3_server: S3Server, s3_bucket: str
):
    check_schedule(number, place(number, s3_server, s3_bucket, tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("number", range(QUICK, ALL))
def test_each_of_fifty_schedules_misses_and_repeats_nothing(
    number: int, tmp_path: Path, s3_server: S3Server, s3_bucket: str, figures: Figures
):
    lives = check_schedule(number, place(number, s3_server, s3_bucket, tmp_path))

    ends = Counter(life.ended for life in lives)
    figures.add(
        "simulated schedules, 1 to 8 ranks",
        seed=number,
        incarnations=len(lives),
        killed=ends["killed"],
        fenced=ends["fenced"],
        resized=ends["stopped"],
        steps=sum(len(life.states) for life in lives),
        missed_images=0,
        repeated_images=0,
    )


def test_the_simulated_model_notices_a_missed_image_and_a_swapped_order():
    problem = Problem(tuple(range(20)), seed=1, batch=8, steps=3, every=1)
    whole = recomputed(problem, None, world_size=1, until=3)
    other_ids = recomputed(Problem((*range(19), 77), seed=1, batch=8, steps=3, every=1), None, world_size=1, until=3)
    split = recomputed(problem, None, world_size=3, until=3)

    assert whole[3] != other_ids[3]
    assert whole[3] != split[3]
    assert np.abs(np.frombuffer(whole[3]) - np.frombuffer(split[3])).max() < 1e-12
    assert whole == recomputed(problem, None, world_size=1, until=3)
    assert {"model/weight", "optimizer/weight/momentum", "ema/weight"} == set(first_state())
