"""Names of objects: within the limits of Kubernetes, and never the same for two runs."""

import itertools
import re

import pytest

from sam3ft_api import names

RUNS = (
    "a",
    "3d-cells",
    "run-3d-cells",
    "3d",
    "run-3d",
    "a-1",
    "a-1-2",
    "x" * 63,
    "x" * 62 + "y",
    "7" * 63,
    "run-" + "7" * 59,
)
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def of_run(run: str) -> dict[str, set[str]]:
    """Every name of a run's objects, by kind."""
    roles = (names.ROLE_PREFLIGHT, names.ROLE_COORDINATOR, names.ROLE_WORKER)
    return {
        "Job": {names.preflight_name(run), *(names.worker_job_name(run, attempt) for attempt in (1, 2, 12, 1_000_000))},
        "Pod": {names.coordinator_name(run)},
        "Service": {names.coordinator_name(run)},
        "NetworkPolicy": {names.policy_name(run, role) for role in roles},
        "ConfigMap": {names.config_name(run)},
        "Secret": {names.token_name(run)},
    }


@pytest.mark.parametrize("run", RUNS)
def test_every_name_is_a_label_and_leaves_room_for_the_index_of_a_pod(run: str):
    everything = set().union(*of_run(run).values())

    assert all(LABEL.fullmatch(name) for name in everything)
    assert LABEL.fullmatch(names.run_label(run))
    assert all(LABEL.fullmatch(f"{names.worker_job_name(run, attempt)}-1023") for attempt in (1, 1_000_000))


@pytest.mark.parametrize("run", RUNS)
def test_a_service_begins_with_a_letter(run: str):
    assert SERVICE.fullmatch(names.coordinator_name(run))


def test_two_runs_never_share_a_name():
    for one, other in itertools.combinations(RUNS, 2):
        first, second = of_run(one), of_run(other)
        shared = [first[kind] & second[kind] for kind in first]

        assert [set()] * len(first) == shared
