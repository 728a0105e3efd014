"""From a resource to the plan of an attempt on a cluster."""

import pytest
from objects_bench import SETTINGS, UID, finetune, planned, spec_with

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.plan import JobPlan, RestartBudget, Toleration
from sam3ft_api.spec import SAM3FineTune
from sam3ft_api.yaml import load_finetune
from sam3ft_launch.kubernetes.quantities import num_bytes

GIB = 1 << 30


def test_numbers_come_from_the_spec():
    spec = spec_with(
        workers={
            "minNodes": 2,
            "nodes": 3,
            "terminationGracePeriodSeconds": 300,
            "startDeadlineSeconds": 77,
            "warmSpares": True,
        },
        failurePolicy={"maxRestarts": 3, "windowSeconds": 600, "maxWithoutProgress": 2},
        storage={"secretRef": "w", "dataSecretRef": "r"},
    )
    plan = planned(finetune({**spec, "activeDeadlineSeconds": 99}), attempt=7, nodes=2, excluded=("n1",))

    assert ("blood-cells", "lab", UID, 7, "kubernetes") == (
        plan.name, plan.namespace, plan.uid, plan.attempt, plan.backend,
    )  # fmt: skip
    assert (2, 2, 4, 8, 8) == (
        plan.nodes, plan.min_nodes, plan.max_nodes, plan.processes_per_node, plan.gpus_per_node,
    )  # fmt: skip
    assert (300.0, 77.0, 99.0, True) == (plan.grace_s, plan.start_deadline_s, plan.deadline_s, plan.warm_spares)
    assert RestartBudget(max_restarts=3, window_s=600, max_without_progress=2) == plan.budget
    assert ("w", "r") == (plan.storage.secret, plan.storage.data_secret)
    assert (("n1",), UID) == (plan.placement.excluded_nodes, plan.config.identity.uid)


def test_a_run_without_accelerators_has_one_process_a_node():
    plan = planned(finetune(spec_with(workers={"gpusPerNode": 0})))

    assert (0, 1) == (plan.gpus_per_node, plan.processes_per_node)


def test_equal_arguments_give_equal_plans_and_the_plan_is_json():
    assert planned() == planned()
    assert JobPlan.model_validate_json(planned().model_dump_json()) == planned()


@pytest.mark.parametrize(
    ("workers", "image"),
    [
        ({"image": "mine:1", "profile": "a100"}, "mine:1"),
        ({"profile": "a100"}, "registry.example/profile:1"),
        ({}, "registry.example/trainer:1"),
    ],
)
def test_the_run_s_image_goes_before_the_profile_s_and_that_before_the_operator_s(workers: dict[str, str], image: str):
    assert image == planned(finetune(spec_with(workers=workers))).placement.image


def test_without_any_image_the_run_is_refused():
    settings = SETTINGS.model_copy(update={"trainer_image": ""})

    with pytest.raises(InvalidConfig, match=r"spec\.workers\.image: no trainer image"):
        planned(settings=settings)


@pytest.mark.parametrize(
    ("workers", "resources", "shared_memory"),
    [
        ({}, {"cpu": "4", "memory": "32Gi", "ephemeral-storage": "40Gi"}, "2Gi"),
        ({"profile": "a100"}, {"cpu": "32", "memory": "256Gi", "ephemeral-storage": "400Gi"}, "16Gi"),
        (
            {"profile": "a100", "resources": {"memory": "1Ti", "sharedMemory": "1Gi"}},
            {"cpu": "32", "memory": "1Ti", "ephemeral-storage": "400Gi"},
            "1Gi",
        ),
    ],
)
def test_the_run_s_resources_go_before_the_profile_s(
    workers: dict[str, object], resources: dict[str, str], shared_memory: str
):
    placement = planned(finetune(spec_with(workers=workers))).placement

    assert (resources, shared_memory) == (placement.resources, placement.shared_memory)


def test_a_run_can_narrow_the_nodes_of_its_profile_and_never_leave_them():
    workers = {
        "profile": "a100",
        "nodeSelector": {"gpu.example/kind": "other", "zone": "b"},
        "tolerations": [{"key": "mine", "effect": "NoExecute", "tolerationSeconds": 3}],
    }
    placement = planned(finetune(spec_with(workers=workers))).placement

    assert {"gpu.example/kind": "a100", "zone": "b"} == placement.node_selector
    assert (
        Toleration(key="mine", effect="NoExecute", toleration_seconds=3),
        Toleration(key="nvidia.com/gpu", operator="Exists"),
    ) == placement.tolerations


@pytest.mark.parametrize(
    ("workers", "cache_bytes"),
    [
        ({"profile": "a100"}, 150 * GIB),
        ({}, 16 * GIB),
        ({"resources": {"ephemeralStorage": "8Gi"}}, 4 * GIB),
        ({"profile": "plain"}, None),
    ],
)
def test_the_cache_keeps_to_half_of_its_volume(workers: dict[str, object], cache_bytes: int | None):
    assert cache_bytes == planned(finetune(spec_with(workers=workers))).config.runtime.cache_bytes


def test_a_bound_of_the_user_s_own_stays():
    spec = spec_with(training={"config": {"runtime": {"cache_bytes": 1 << 21}}})

    assert 1 << 21 == planned(finetune(spec)).config.runtime.cache_bytes


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"workers": {"profile": "h100"}}, "spec.workers.profile: 'h100' is no worker profile of this cluster"),
        ({"workers": {"profile": "h100"}}, "expected one of a100, default, plain"),
        ({"storage": {"profile": "moon"}}, "spec.storage.profile: 'moon' is no storage profile of this cluster"),
        ({"storage": {"profile": "moon"}}, "expected one of default"),
        ({"storage": {"dataProfile": "moon"}}, "spec.storage.dataProfile: 'moon'"),
        ({"data": {"uri": "/data/blood"}}, "spec.data.uri: '/data/blood' is a folder, which no pod can see"),
        ({"checkpoint": {"uri": None}}, "spec.checkpoint.uri is required on kubernetes"),
        ({"training": {"config": {"optim": {"learning": 1}}}}, "optim.learning (value 1) is no setting"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_with_the_field_and_what_is_allowed(sections: dict[str, dict], said: str):
    with pytest.raises(InvalidConfig) as raised:
        planned(finetune(spec_with(**sections)))

    assert said in str(raised.value)


@pytest.mark.parametrize("nodes", [0, 5])
def test_nodes_outside_the_run_s_range_are_refused(nodes: int):
    with pytest.raises(InvalidConfig, match="blood-cells: plan: "):
        planned(nodes=nodes)


@pytest.mark.parametrize("uid", ["", "a b", "x" * 64, "a\nb", "-"])
def test_a_uid_that_is_no_label_is_refused(uid: str):
    with pytest.raises(InvalidConfig, match="is no value of a Kubernetes label"):
        planned(uid=uid)


def test_a_storage_profile_of_the_administrator_is_known():
    settings = SETTINGS.model_copy(update={"storage_profiles": "profiles: {moon: {}}"})

    assert "moon" == planned(finetune(spec_with(storage={"profile": "moon"})), settings=settings).storage.profile


def test_the_source_is_the_resource_when_there_is_no_file():
    source = planned().source

    assert finetune() == load_finetune(source)


def with_phrases(*, per_category: int) -> SAM3FineTune:
    """A run with 400 categories, each with so many phrases of 256 bytes."""
    words = [f"{'x' * 253}{number:03}" for number in range(per_category)]
    return finetune(spec_with(data={"phrases": {f"category {number}": words for number in range(400)}}))


def test_the_user_s_file_is_left_out_where_the_config_map_has_no_room_for_it():
    small, large = (planned(with_phrases(per_category=number)) for number in (2, 6))

    assert finetune().kind in small.source
    assert "" == large.source
    assert 6 == len(large.config.data.phrases["category 399"])


def test_settings_that_find_no_room_in_a_config_map_are_refused():
    with pytest.raises(InvalidConfig, match="a ConfigMap holds 1000000; write phrases into the annotation file"):
        planned(with_phrases(per_category=12))


@pytest.mark.parametrize(
    ("text", "number"),
    [("8", 8), ("500m", 0), ("1500m", 1), ("1.5Gi", 3 << 29), ("2k", 2000), ("3Mi", 3 << 20), ("1P", 10**15)],
)
def test_amounts_are_numbers(text: str, number: int):
    assert number == num_bytes(text)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1e3", "-1", "1Xi"])
def test_what_is_no_amount_is_refused(text: str):
    with pytest.raises(ValueError, match="is not an amount"):
        num_bytes(text)
