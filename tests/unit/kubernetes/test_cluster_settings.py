"""Settings of a cluster."""

from typing import Any

import pytest
from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.profiles import WorkerProfile
from sam3ft_launch.kubernetes.settings import ClusterSettings


def test_the_image_of_the_operator_is_all_that_is_needed():
    settings = ClusterSettings(operator_image="o:1")

    assert {"default": WorkerProfile()} == settings.worker_profiles
    assert ["default"] == list(settings.known_storage_profiles)
    assert ("50m", "64Mi") == (settings.coordinator_cpu, settings.coordinator_memory)


def test_profiles_are_added_to_the_default():
    settings = ClusterSettings(
        operator_image="o:1", worker_profiles={"a": WorkerProfile()}, storage_profiles="profiles: {b: {}}"
    )

    assert {"default", "a"} == settings.worker_profiles.keys()
    assert {"default", "b"} == settings.known_storage_profiles.keys()


@pytest.mark.parametrize(
    "wrong",
    [
        {"operator_image": ""},
        {"trainer_image": "a b"},
        {"coordinator_cpu": "much"},
        {"store_cidrs": ("10.0.0.1/8",)},
        {"store_cidrs": ("everywhere",)},
        {"image_pull_policy": "Sometimes"},
        {"run_as_user": 0},
        {"unreachable_s": -1},
        {"operator_namespace": "A"},
        {"operator_labels": {"a b": "c"}},
        {"bogus": 1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError):
        ClusterSettings.model_validate({"operator_image": "o:1", **wrong})


def test_storage_profiles_that_cannot_be_read_are_named_as_such():
    settings = ClusterSettings(operator_image="o:1", storage_profiles="profiles: {a: {endpoint: 1}}")

    with pytest.raises(InvalidConfig, match=r"storage profiles: line 1: profiles\.a\.endpoint"):
        _ = settings.known_storage_profiles
