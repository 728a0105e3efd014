"""The Job of the workers, the check, and the coordinator's pod: what each of them is told."""

import json
from typing import Any

import pytest
from objects_bench import (
    SETTINGS,
    arguments,
    environment,
    finetune,
    of_kind,
    planned,
    rendered,
    spec_with,
    worker_pod,
)

from sam3ft_api.exit_codes import EXIT_RULES
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.coordinator.__main__ import build_parser, parse_address
from sam3ft_launch.kubernetes.objects.worker_job import launcher_arguments

GPU_RUN = finetune(spec_with(workers={"profile": "a100"}))


def volumes(pod: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Source of each volume by the place where it is mounted; every volume is mounted once."""
    sources = {volume["name"]: {key: volume[key] for key in volume if key != "name"} for volume in pod["volumes"]}
    mounts = pod["containers"][0]["volumeMounts"]
    assert sorted(sources) == sorted(mount["name"] for mount in mounts)
    return {mount["mountPath"]: (mount.get("readOnly", False), sources[mount["name"]]) for mount in mounts}


# --- the Job ---------------------------------------------------------------------------------------------------------


def test_the_job_is_indexed_and_replaces_a_pod_only_when_it_has_ended():
    job = of_kind(rendered(nodes=3), "Job", "worker")
    spec = job["spec"]

    assert "blood-cells-1" == job["metadata"]["name"]
    assert ("Indexed", 3, 3, "Failed") == (
        spec["completionMode"], spec["completions"], spec["parallelism"], spec["podReplacementPolicy"],
    )  # fmt: skip
    assert "Never" == spec["template"]["spec"]["restartPolicy"]
    assert spec["backoffLimit"] >= 10_000
    assert not {"ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimitPerIndex"} & spec.keys()


@pytest.mark.parametrize("role", ["worker", "preflight"])
def test_the_failure_policy_is_the_table_of_exit_codes_and_a_disruption_comes_first(role: str):
    job = of_kind(rendered(), "Job", role)
    rules = job["spec"]["podFailurePolicy"]["rules"]
    container = job["spec"]["template"]["spec"]["containers"][0]["name"]

    assert ["Ignore", "Ignore", "FailJob"] == [rule["action"] for rule in rules]
    assert [{"type": "DisruptionTarget", "status": "True"}] == rules[0]["onPodConditions"]
    assert [[20, 21], [10, 11, 12, 13, 14, 15, 16]] == [rule["onExitCodes"]["values"] for rule in rules[1:]]
    assert {container} == {rule["onExitCodes"]["containerName"] for rule in rules[1:]}
    counted = {code for code, rule in EXIT_RULES.items() if rule.counts}
    assert not counted & {20, 21, 10, 11, 12, 13, 14, 15, 16}


def test_a_worker_has_what_it_asks_for_and_no_more():
    container = worker_pod(rendered(GPU_RUN))["containers"][0]

    expected = {
        "cpu": "32", "memory": "256Gi", "ephemeral-storage": "400Gi", "rdma/hca": "1", "nvidia.com/gpu": "8",
    }  # fmt: skip
    assert expected == container["resources"]["requests"]
    assert expected == container["resources"]["limits"]


def test_the_accelerator_is_the_profile_s_and_none_without_accelerators():
    amd = worker_pod(rendered(finetune(spec_with(workers={"profile": "plain", "gpusPerNode": 2}))))
    cpu = worker_pod(rendered(finetune(spec_with(workers={"gpusPerNode": 0}))))

    assert "2" == amd["containers"][0]["resources"]["limits"]["amd.com/gpu"]
    assert {"cpu", "memory", "ephemeral-storage"} == cpu["containers"][0]["resources"]["limits"].keys()


def test_the_profile_says_how_pods_look():
    pod = worker_pod(rendered(GPU_RUN))
    about = of_kind(rendered(GPU_RUN), "Job", "worker")["spec"]["template"]["metadata"]

    assert ("nvidia", [{"name": "registry"}]) == (pod["runtimeClassName"], pod["imagePullSecrets"])
    assert "registry.example/profile:1" == pod["containers"][0]["image"]
    assert "false" == about["labels"]["sidecar.istio.io/inject"]
    assert "disabled" == about["annotations"]["linkerd.io/inject"]
    assert {"gpu.example/kind": "a100"} == pod["nodeSelector"]


def test_optional_fields_are_absent_where_nothing_is_said():
    pod = worker_pod(rendered())

    assert not {"runtimeClassName", "imagePullSecrets", "priorityClassName", "nodeSelector", "affinity"} & pod.keys()


def test_folders_are_volumes_and_the_root_stays_untouched():
    found = volumes(worker_pod(rendered(GPU_RUN)))

    assert {
        "/tmp": (False, {"emptyDir": {}}),  # noqa: S108 - the container's own
        "/var/lib/sam3ft": (False, {"emptyDir": {}}),
        "/dev/shm": (False, {"emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}),  # noqa: S108 - as above
        "/var/cache/sam3ft": (False, {"emptyDir": {"sizeLimit": "300Gi"}}),
        "/etc/sam3ft/run": (True, {"configMap": {"name": "blood-cells-config"}}),
        "/etc/sam3ft/ca": (True, {"configMap": {"name": "site-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}),
    } == found


def test_without_a_cache_there_is_neither_volume_nor_variable():
    pod = worker_pod(rendered(finetune(spec_with(workers={"profile": "plain"}))))

    assert "/var/cache/sam3ft" not in volumes(pod)
    assert "SAM3FT_CACHE_DIR" not in environment(pod["containers"][0])


@pytest.mark.parametrize(
    ("storage", "folders"),
    [
        ({}, {}),
        ({"secretRef": "w"}, {"SAM3FT_CREDENTIALS_DIR": "w"}),
        ({"secretRef": "w", "dataSecretRef": "r"}, {"SAM3FT_CREDENTIALS_DIR": "w", "SAM3FT_DATA_CREDENTIALS_DIR": "r"}),
        ({"dataSecretRef": "r"}, {"SAM3FT_DATA_CREDENTIALS_DIR": "r"}),
    ],
)
@pytest.mark.parametrize("role", ["worker", "preflight"])
def test_credentials_are_mounted_as_folders_and_never_variables(
    storage: dict[str, str], folders: dict[str, str], role: str
):
    submission = rendered(finetune(spec_with(storage=storage)))
    pod = of_kind(submission, "Job", role)["spec"]["template"]["spec"]
    variables, mounted = environment(pod["containers"][0]), volumes(pod)

    named = {name: value for name, value in variables.items() if name.endswith("CREDENTIALS_DIR")}
    assert folders == {name: mounted[folder][1]["secret"]["secretName"] for name, folder in named.items()}
    assert all(mounted[folder][0] for folder in named.values())
    # The files belong to root and the pod's user is another: without the last bit nobody could read them.
    assert all(mounted[folder][1]["secret"]["defaultMode"] == 0o444 for folder in named.values())
    assert "envFrom" not in pod["containers"][0]


@pytest.mark.parametrize("role", ["worker", "preflight"])
def test_files_of_the_run_are_where_the_variables_say(role: str):
    settings = SETTINGS.model_copy(update={"storage_profiles": "profiles: {lab: {}}\n"})
    submission = rendered(settings=settings)
    pod = of_kind(submission, "Job", role)["spec"]["template"]["spec"]
    files = of_kind(submission, "ConfigMap", "preflight")["data"]

    assert "/etc/sam3ft/run/storage.yaml" == environment(pod["containers"][0])["SAM3FT_STORAGE_PROFILES"]
    assert "/etc/sam3ft/run/config.json" == arguments(pod["containers"][0])["--config"]
    assert {"storage.yaml", "config.json", "finetune.yaml"} == files.keys()
    assert "profiles: {lab: {}}\n" == files["storage.yaml"]
    assert planned().config == TrainingConfig.model_validate_json(files["config.json"])


def test_without_storage_profiles_there_is_neither_file_nor_variable():
    submission = rendered()

    assert "storage.yaml" not in of_kind(submission, "ConfigMap", "preflight")["data"]
    assert "SAM3FT_STORAGE_PROFILES" not in environment(worker_pod(submission)["containers"][0])


@pytest.mark.parametrize("role", ["worker", "preflight"])
def test_proxy_and_authorities_are_told_in_every_spelling(role: str):
    pod = of_kind(rendered(GPU_RUN), "Job", role)["spec"]["template"]["spec"]
    found = environment(pod["containers"][0])

    assert {"http://proxy.example:3128"} == {found["https_proxy"], found["HTTPS_PROXY"]}
    assert {".example,.svc,.cluster.local,localhost,127.0.0.1"} == {found["no_proxy"], found["NO_PROXY"]}
    assert "http_proxy" not in found
    assert {"/etc/sam3ft/ca/ca.crt"} == {found["SSL_CERT_FILE"], found["REQUESTS_CA_BUNDLE"]}


def test_without_a_proxy_no_variable_speaks_of_one():
    found = environment(worker_pod(rendered())["containers"][0])

    assert not [name for name in found if "proxy" in name.lower()]


# --- where -----------------------------------------------------------------------------------------------------------


def test_excluded_nodes_are_avoided_by_name_all_together():
    terms = worker_pod(rendered(excluded=("n1", "n2.example")))["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]

    expected = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("n1", "n2.example")]
    assert [{"matchFields": expected}] == terms


def test_pods_leave_a_dead_node_soon_and_keep_what_the_run_tolerates():
    workers = {"tolerations": [{"key": "a", "value": "b"}, {"operator": "Exists", "effect": "NoSchedule"}]}
    found = worker_pod(rendered(finetune(spec_with(workers=workers))))["tolerations"]

    assert [
        {"key": "a", "operator": "Equal", "value": "b"},
        {"operator": "Exists", "effect": "NoSchedule"},
        *(
            {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
            for state in ("not-ready", "unreachable")
        ),
    ] == found


# --- the launcher ----------------------------------------------------------------------------------------------------


def test_the_launcher_is_told_who_it_is_by_the_index_of_its_pod():
    container = worker_pod(rendered(attempt=4))["containers"][0]
    found = arguments(container)

    assert ["python", "-m", "sam3ft_trainer.run.launcher"] == container["command"]
    assert ("$(JOB_COMPLETION_INDEX)", "blood-cells-4-$(JOB_COMPLETION_INDEX)") == (found["--slot"], found["--node"])
    assert ("$(POD_IP)", "4", "8") == (found["--address"], found["--attempt"], found["--nproc"])
    assert {"fieldRef": {"fieldPath": "status.podIP"}} == environment(container)["POD_IP"]
    assert container["terminationMessagePath"] == found["--termination-log"]


def test_launchers_find_the_coordinator_by_the_service_s_name_also_when_the_run_begins_with_a_digit():
    for name in ("blood-cells", "3d"):
        submission = rendered(finetune(name=name))
        service = of_kind(submission, "Service", "coordinator")
        ports = {port["name"]: port for port in service["spec"]["ports"]}
        address = arguments(worker_pod(submission)["containers"][0])["--coordinator"]

        assert f"{service['metadata']['name']}.lab.svc:{ports['launchers']['port']}" == address


@pytest.mark.parametrize(("grace", "eviction"), [(120, "110"), (15, "5"), (3600, "3590")])
def test_the_launcher_ends_before_the_kubelet_kills_it(grace: int, eviction: str):
    pod = worker_pod(rendered(finetune(spec_with(workers={"terminationGracePeriodSeconds": grace}))))

    assert (grace, eviction) == (
        pod["terminationGracePeriodSeconds"],
        arguments(pod["containers"][0])["--eviction-grace-s"],
    )


def test_warm_spares_are_asked_for_only_where_the_run_wants_them():
    wants = planned(finetune(spec_with(workers={"warmSpares": True})))

    assert "--warm-spares" in launcher_arguments(wants)
    assert "--warm-spares" not in launcher_arguments(planned())


# --- Kueue -----------------------------------------------------------------------------------------------------------


def test_a_run_in_a_queue_waits_for_its_admission():
    submission = rendered(finetune({**spec_with(), "queue": {"localQueue": "gpu"}}))
    job = of_kind(submission, "Job", "worker")

    assert "gpu" == job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert "true" == job["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"]
    assert job["spec"]["suspend"] is True
    rest = [thing for thing in submission.objects if thing is not job]
    assert "kueue" not in json.dumps(rest)
    assert not of_kind(submission, "Job", "preflight")["spec"]["suspend"]


def test_without_a_queue_nothing_speaks_of_kueue():
    submission = rendered(settings=SETTINGS.model_copy(update={"service_queue": "cpu"}))

    assert "kueue" not in json.dumps(submission.objects)
    assert of_kind(submission, "Job", "worker")["spec"]["suspend"] is False


def test_the_check_and_the_coordinator_may_have_a_queue_of_their_own():
    resource = finetune({**spec_with(), "queue": {"localQueue": "gpu"}})
    submission = rendered(resource, settings=SETTINGS.model_copy(update={"service_queue": "cpu"}))
    preflight, coordinator = of_kind(submission, "Job", "preflight"), of_kind(submission, "Pod", "coordinator")

    for thing in (preflight, coordinator):
        assert "cpu" == thing["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        assert "elastic" not in json.dumps(thing)
    assert preflight["spec"]["suspend"] is True


# --- the check -------------------------------------------------------------------------------------------------------


def test_the_check_takes_no_accelerator_and_waits_for_no_node_that_has_one():
    job = of_kind(rendered(GPU_RUN), "Job", "preflight")
    pod = job["spec"]["template"]["spec"]

    assert {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi"} == pod["containers"][0]["resources"]["limits"]
    assert not {"nodeSelector", "runtimeClassName", "priorityClassName", "affinity"} & pod.keys()
    assert 2 == len(pod["tolerations"])
    assert "registry.example/profile:1" == pod["containers"][0]["image"]
    assert (3, 21_600) == (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"])


def test_the_check_looks_at_the_whole_group_and_leaves_its_last_word():
    container = of_kind(rendered(), "Job", "preflight")["spec"]["template"]["spec"]["containers"][0]
    found = arguments(container)

    assert ["python", "-m", "sam3ft_trainer", "check"] == container["command"]
    assert ("16", container["terminationMessagePath"]) == (found["--nproc"], found["--termination-log"])


# --- the coordinator -------------------------------------------------------------------------------------------------


def test_the_coordinator_understands_its_arguments_on_every_kind_of_address():
    spec = spec_with(workers={"nodes": 3, "minNodes": 2, "maxNodes": 4, "startDeadlineSeconds": 77})
    container = of_kind(rendered(finetune(spec), attempt=5), "Pod", "coordinator")["spec"]["containers"][0]

    for address in ("10.0.0.7", "fd00::7"):
        words = [word.replace("$(POD_IP)", address) for word in container["args"]]
        read = build_parser().parse_args(words)

        assert (3, 2, 4, 5, 77.0) == (read.nodes, read.min_nodes, read.max_nodes, read.attempt, read.gate_deadline_s)
        assert parse_address(f"[{address}]:7350") == read.listen
        assert parse_address(f"[{address}]:7351") == read.progress_listen


def test_the_coordinator_is_small_and_comes_back():
    settings = SETTINGS.model_copy(update={"coordinator_priority_class": "system", "image_pull_secrets": ("r",)})
    pod = of_kind(rendered(settings=settings), "Pod", "coordinator")["spec"]
    container = pod["containers"][0]

    assert ("Always", "system", [{"name": "r"}]) == (
        pod["restartPolicy"], pod["priorityClassName"], pod["imagePullSecrets"],
    )  # fmt: skip
    assert {"cpu": "50m", "memory": "64Mi"} == container["resources"]["requests"]
    assert "registry.example/operator:1" == container["image"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert {"path": "/healthz", "port": "progress"} == container[probe]["httpGet"]


def test_the_service_leads_to_the_coordinator_s_ports():
    submission = rendered()
    service = of_kind(submission, "Service", "coordinator")["spec"]
    pod = of_kind(submission, "Pod", "coordinator")
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}

    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert "ClusterIP" == service["type"]
    assert ports == {port["targetPort"]: port["port"] for port in service["ports"]}
