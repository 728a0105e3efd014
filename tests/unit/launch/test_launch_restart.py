"""When a launcher is started again, and when its end is the run's."""

import pytest

from sam3ft_api.exit_codes import EXIT_RULES, ExitCode
from sam3ft_api.plan import RestartBudget
from sam3ft_launch.restart import LONGEST_DELAY_S, EndRun, LauncherEnd, StartAgain, decide_restart


def end(code: int, *, at_s: float = 0.0, word: bool = False, commit: int | None = None) -> LauncherEnd:
    return LauncherEnd(code=code, at_s=at_s, has_last_word=word, commit_step=commit)


def decide(*ends: LauncherEnd, stop: bool = False, **budget: int) -> StartAgain | EndRun:
    return decide_restart(ends, budget=RestartBudget(**budget), stop_requested=stop)


@pytest.mark.parametrize("code", [code for code, rule in EXIT_RULES.items() if rule.is_verdict or code == 0])
def test_success_and_verdicts_end_the_run(code: ExitCode):
    assert EndRun(code, EXIT_RULES[code].advice) == decide(end(code))


@pytest.mark.parametrize("code", [ExitCode.KILLED, ExitCode.TERMINATED, ExitCode.INTERRUPTED, ExitCode.PEER_LOST])
def test_ends_that_are_no_ones_fault_are_tried_again(code: ExitCode):
    assert isinstance(decide(end(code)), StartAgain)


@pytest.mark.parametrize("code", [code for code, rule in EXIT_RULES.items() if rule.retry])
def test_nothing_is_started_again_once_somebody_asked_to_stop(code: ExitCode):
    verdict = decide(end(code, word=True), stop=True)

    assert isinstance(verdict, EndRun)
    assert code == verdict.code


def test_a_launcher_stopped_before_it_could_listen_has_lost_nothing():
    verdict = decide(end(ExitCode.TERMINATED), stop=True)

    assert isinstance(verdict, EndRun)
    assert ExitCode.INTERRUPTED == verdict.code


@pytest.mark.parametrize("code", [ExitCode.INTERNAL_ERROR, ExitCode.HUNG])
def test_a_launcher_that_gave_up_by_itself_is_believed(code: ExitCode):
    assert isinstance(decide(end(code, word=True)), EndRun)


def test_a_launcher_that_crashed_without_a_last_word_is_tried_again():
    assert isinstance(decide(end(ExitCode.INTERNAL_ERROR, word=False)), StartAgain)


def test_a_store_outage_is_waited_out_though_the_launcher_gave_up():
    assert isinstance(decide(end(ExitCode.STORAGE_UNAVAILABLE, word=True)), StartAgain)


def test_a_fenced_member_ends_alone():
    assert EndRun(ExitCode.FENCED, EXIT_RULES[ExitCode.FENCED].advice) == decide(end(ExitCode.FENCED))


def test_counted_failures_within_the_window_spend_the_budget():
    kills = [end(137, at_s=second, commit=second) for second in range(4)]

    assert isinstance(decide(*kills[:3], max_restarts=3), StartAgain)
    assert isinstance(decide(*kills, max_restarts=3), EndRun)


def test_failures_outside_the_window_are_forgiven():
    kills = [end(137, at_s=second * 100.0, commit=second) for second in range(10)]

    assert isinstance(decide(*kills, max_restarts=3, window_s=250), StartAgain)


def test_interruptions_are_not_counted():
    ends = [end(20, at_s=second, commit=second) for second in range(50)]

    assert isinstance(decide(*ends, max_restarts=0), StartAgain)


def test_ends_without_a_newer_commit_end_the_run_whatever_their_cause():
    ends = [end(20, commit=7) for _ in range(5)]

    assert isinstance(decide(*ends[:4]), StartAgain)
    verdict = decide(*ends)
    assert isinstance(verdict, EndRun)
    assert "5 ends in a row without a newer commit" in verdict.why


def test_a_newer_commit_resets_count_and_delay():
    stuck = [end(20, commit=7) for _ in range(4)]

    verdict = decide(*stuck, end(20, commit=8))

    assert isinstance(verdict, StartAgain)
    assert 1.0 == verdict.delay_s


def test_the_delay_doubles_up_to_a_minute():
    budget = RestartBudget(max_restarts=100, max_without_progress=100)
    ends = [end(20, commit=7) for _ in range(12)]

    delays = [
        decide_restart(ends[:count], budget=budget, stop_requested=False).delay_s  # type: ignore[union-attr]
        for count in range(1, 13)
    ]

    assert [1, 2, 4, 8, 16, 32] == delays[:6]
    assert [LONGEST_DELAY_S] * 6 == delays[6:]
