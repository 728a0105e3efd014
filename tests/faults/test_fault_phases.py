"""Two real ranks are struck at every phase with every signal; the run ends as the table of exit codes says, goes on,
and is bit for bit the one that nothing disturbed: weights, optimizer and the images of every step."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fault_bench import Bench, Ended, Undisturbed, assert_each_image_of_each_epoch_once

from sam3ft_api.exit_codes import ExitCode
from sam3ft_faults.installing import fault_environment
from sam3ft_faults.plans import NAN_PHASES, PHASES
from sam3ft_faults.record import Figures
from sam3ft_faults.striking import fired

Make = Callable[[int], Bench]
Runs = Callable[[int], Undisturbed]

SAYS = {
    "KILL": r"was killed by SIGKILL",
    "TERM": r"was killed by SIGTERM",
    "INT": r"ended with 1 \(InternalError\): KeyboardInterrupt",
    "raise": r"ended with 1 \(InternalError\): .*injected by the fault plan",
    "STOP": r"ended with 24 \(Hung\)",
}
"""How the launcher words the end that a signal leads to."""
BEHIND = ("upload", "before_commit", "after_commit")
"""In a thread behind the training, which learns of an exception there at the next save, when others may have struck."""
STOPPED = ("data", "all_reduce", "upload", "before_commit", "restore", "evaluate")
"""Each costs a minute until the others' watchdogs notice: in a wait for data, gradients, files, peers and scores."""
CHAINS = "two ranks struck in every phase"
RANK = {phase: 0 if phase in {"before_commit", "after_commit", "export"} else 1 for phase in PHASES}
"""Rank 0 alone goes through these three."""


STEP = {
    "upload": "2+",
    "data": "3",
    "before_forward": "4",
    "stage": "5+",
    "backward": "5",
    "before_commit": "6+",
    "all_reduce": "7",
    "after_commit": "8+",
    "optimizer": "9",
}
"""Far enough apart for a commit in between; the others strike at the first chance."""


def plan_of(phases: dict[str, str]) -> str:
    return ",".join(
        f"{phase}{'@5000' if phase == 'upload' else ''}:{RANK[phase]}:{STEP.get(phase, '?')}:{action}"
        for phase, action in phases.items()
    )


def struck(bench: Bench, name: str, plan: str) -> tuple[Ended, list[dict[str, Any]]]:
    records = bench.folder / f"fired-{name}"
    return bench.run(name, fault_environment(plan, records)), fired(records)


def test_no_process_waits_beside_workers_that_train(undisturbed: Runs):
    work = undisturbed(2).ended.folder / "work"
    for place in range(2):
        ready_s = (work / "logs" / f"spare-{place}.log").stat().st_mtime
        assert ready_s < (work / "launcher" / f"training-{place}").stat().st_mtime


def assert_same(undisturbed: Undisturbed, ended: Ended) -> None:
    steps, processes = undisturbed.bench.steps, undisturbed.bench.processes
    assert undisturbed.ended.state(steps) == ended.state(steps)
    assert undisturbed.ended.weights() == ended.weights()
    expected = assert_each_image_of_each_epoch_once(undisturbed.ended.folder, steps=steps, world_size=processes)
    assert expected == assert_each_image_of_each_epoch_once(ended.folder, steps=steps, world_size=processes)


def check_chain(undisturbed: Undisturbed, bench: Bench, phases: dict[str, str], *, restarts: bool = True) -> None:
    ended, records = struck(bench, "struck", plan_of(phases))

    assert ended.code == 0, ended.output[-3000:] + ended.log[-3000:]
    assert sorted(phases) == sorted(record["fault"]["phase"] for record in records)
    assert {RANK[record["fault"]["phase"]] == record["rank"] for record in records} == {True}
    ends = ended.ends
    if restarts:
        in_order = [record["fault"]["action"] for record in records]
        assert len(in_order) == len(ends), ends
        assert [] == [(a, end) for a, end in zip(in_order, ends, strict=True) if not re.search(SAYS[a], end)]
    else:
        assert [] == ends
    assert_same(undisturbed, ended)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ranks_struck_in_eight_phases_end_as_the_table_says_and_change_no_bit(undisturbed: Runs, like: Make):
    check_chain(
        undisturbed(2),
        like(2),
        {
            "upload": "KILL",
            "before_commit": "KILL",
            "restore": "raise",
            "after_commit": "KILL",
            "backward": "KILL",
            "all_reduce": "TERM",
            "optimizer": "INT",
            "export": "KILL",
        },
    )


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("action", "phases"),
    [
        ("KILL", PHASES),
        ("TERM", PHASES),
        ("INT", PHASES),
        ("raise", tuple(phase for phase in PHASES if phase not in BEHIND)),
        ("raise", BEHIND),
    ],
    ids=["KILL", "TERM", "INT", "raise", "raise-behind"],
)
def test_every_phase_struck_with_a_signal_changes_no_bit(
    action: str, phases: tuple[str, ...], undisturbed: Runs, like: Make, figures: Figures
):
    check_chain(undisturbed(2), like(2), dict.fromkeys(phases, action))

    figures.add(CHAINS, seed=action, faults=len(phases), different_bits=0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_rank_that_is_stopped_is_noticed_and_changes_no_bit(undisturbed: Runs, like: Make, figures: Figures):
    bench = like(2)
    bench.runtime = {"watchdog_s": 60}  # a busy machine must not look like a stopped rank

    check_chain(undisturbed(2), bench, dict.fromkeys(STOPPED, "STOP"))

    figures.add(CHAINS, seed="STOP", faults=len(STOPPED), different_bits=0)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_rank_that_dawdles_in_every_phase_is_waited_for(undisturbed: Runs, like: Make, figures: Figures):
    # Nothing is restored in a run that nobody ends.
    phases = [phase for phase in PHASES if phase != "restore"]
    check_chain(undisturbed(2), like(2), dict.fromkeys(phases, "sleep=2"), restarts=False)

    figures.add(CHAINS, seed="sleep", faults=len(PHASES), different_bits=0)


def check_verdict(undisturbed: Undisturbed, bench: Bench, plan: str, code: int, *, words: str) -> None:
    """The run ends with `code`; the same command then goes on to the same end."""
    ended, records = struck(bench, "struck", plan)
    again, _ = struck(bench, "struck", plan)

    assert [code, 0] == [ended.code, again.code], again.output[-3000:] + again.log[-3000:]
    assert len(records) == 1
    assert words in ended.output
    assert_same(undisturbed, again)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_device_without_memory_for_one_image_is_the_verdict_16_and_the_run_can_go_on(undisturbed: Runs, like: Make):
    check_verdict(
        undisturbed(2), like(2), "before_forward:1:5:oom", ExitCode.OUT_OF_MEMORY, words="One image at a time"
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("plan", "code"),
    [
        ("backward:0:5:oom", ExitCode.OUT_OF_MEMORY),
        ("stage:1:?:oom", ExitCode.OUT_OF_MEMORY),
        ("optimizer:1:5:KILL", ExitCode.KILLED),
        ("before_commit:0:4+:KILL", ExitCode.KILLED),
        ("all_reduce:0:5:raise", ExitCode.INTERNAL_ERROR),
        ("data:1:5:INT", ExitCode.INTERNAL_ERROR),
    ],
)
def test_without_restarts_the_first_fault_is_the_exit_code_and_a_rerun_changes_no_bit(
    plan: str, code: int, undisturbed: Runs, like: Make, figures: Figures
):
    bench = like(2)
    bench.restarts = 0

    check_verdict(undisturbed(2), bench, plan, code, words="")
    figures.add("two ranks ended by a fault, and run again", seed=plan, different_bits=0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("phase", sorted(NAN_PHASES))
def test_a_number_that_is_none_ends_with_15_when_none_is_allowed_and_the_rerun_changes_no_bit(
    phase: str, undisturbed: Runs, like: Make
):
    bench = like(2)
    bench.more = {"training.config.optim": {"non_finite_budget": 0}}

    check_verdict(undisturbed(2), bench, f"{phase}:1:5:nan", ExitCode.NON_FINITE_LOSS, words="non_finite_budget")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("phase", sorted(NAN_PHASES))
def test_an_update_that_one_rank_cannot_make_is_skipped_by_all_and_skips_no_image(
    phase: str, undisturbed: Runs, like: Make
):
    bench = like(2)

    ended, records = struck(bench, "struck", f"{phase}:1:5:nan")

    assert (0, 1) == (ended.succeeded().code, len(records))
    events = map(json.loads, (ended.folder / "work/events.jsonl").read_text().splitlines())
    assert [5] == [event["step"] for event in events if event["event"] == "step_skipped"]
    bundles = sorted(path.name for path in (ended.folder / "work/non_finite").iterdir())
    assert [f"step-00000005-rank-{rank}.json" for rank in (0, 1)] == bundles
    steps = bench.steps
    assert assert_each_image_of_each_epoch_once(
        undisturbed(2).ended.folder, steps=steps, world_size=2
    ) == assert_each_image_of_each_epoch_once(ended.folder, steps=steps, world_size=2)
    assert undisturbed(2).ended.weights() != ended.weights()
