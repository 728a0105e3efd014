"""What a fault has cost, from what the coordinator said."""

from recovery import Moment, Recovery, recovery_of


def moments(*told: tuple[float, int, int, int]) -> list[Moment]:
    """Return moments of (time, round, step, commit); a step is finished a tenth of a second before it is first told."""
    found: list[Moment] = []
    for at_s, number, step, commit in told:
        stepped_s = found[-1].stepped_s if found and found[-1].step == step else at_s - 0.1
        found.append(Moment(at_s, number, ("a", "b"), step, stepped_s, commit))
    return found


BEFORE = [(10.0, 1, 14, 10), (11.0, 1, 15, 10), (12.0, 1, 16, 10)]


def test_the_parts_are_pod_group_and_first_step() -> None:
    told = moments(*BEFORE, (15.0, 1, 16, 10), (20.0, 2, 16, 10), (23.0, 2, 11, 10))
    found = recovery_of(told, fault_s=12.5, pod_running_s=17.5)

    assert found is not None
    assert 6 == found.lost_steps
    assert (5.0, 2.5) == (found.pod_s, found.group_s)
    assert (11.0, 2.9) == (round(found.seconds, 6), round(found.reload_s or 0.0, 6))


def test_a_group_that_goes_on_before_the_new_pod_runs_is_not_told_to_have_waited_for_it() -> None:
    told = moments(*BEFORE, (15.0, 2, 16, 10), (18.0, 2, 11, 10))
    found = recovery_of(told, fault_s=12.5, pod_running_s=40.0)

    assert found is not None
    assert (27.5, 3.1) == (found.pod_s, round(found.group_s or 0.0, 6))


def test_nothing_is_known_before_the_new_group_has_taken_a_step() -> None:
    told = moments(*BEFORE, (20.0, 2, 16, 10))

    assert recovery_of(told, fault_s=12.5) is None


def test_steps_that_were_saved_on_the_way_out_are_not_lost() -> None:
    told = moments(*BEFORE, (13.0, 1, 17, 17), (20.0, 2, 17, 17), (23.0, 2, 18, 17))
    found = recovery_of(told, fault_s=12.5)

    assert found is not None
    assert (0, None) == (found.lost_steps, found.pod_s)


def test_a_group_that_has_stayed_is_judged_by_its_longest_pause() -> None:
    told = moments(*BEFORE, (13.0, 1, 17, 10), (18.0, 1, 18, 10))
    assert recovery_of(told, fault_s=12.5, regroups=False) is None
    told += moments((19.0, 1, 19, 10))
    found = recovery_of(told, fault_s=12.5, regroups=False)

    assert recovery_of(told, fault_s=12.5) is None, "a new group was to be waited for"

    assert found is not None
    assert (5.0, Recovery(found.seconds)) == (round(found.seconds, 6), found)
