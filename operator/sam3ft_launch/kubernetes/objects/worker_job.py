"""The Indexed Job that runs the workers of one attempt: one pod a node, a launcher as its first process."""

from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan, Toleration
from sam3ft_api.profiles import CacheVolume, WorkerProfile
from sam3ft_api.worker import ENV_CACHE_DIR
from sam3ft_launch.kubernetes.objects.config_map import CONFIG_FILE
from sam3ft_launch.kubernetes.objects.coordinator_pod import run_key
from sam3ft_launch.kubernetes.objects.job import ELASTIC_ANNOTATION, failure_policy, queued
from sam3ft_launch.kubernetes.objects.metadata import labels, metadata
from sam3ft_launch.kubernetes.objects.pod import (
    CACHE_DIR,
    POD_IP_VARIABLE,
    RUN_DIR,
    TERMINATION_LOG,
    WORK_DIR,
    last_words,
    leaves_dead_nodes,
    pod_ip,
    pull_secrets,
    restricted_container,
    restricted_pod,
    variable,
)
from sam3ft_launch.kubernetes.objects.service import coordinator_address
from sam3ft_launch.kubernetes.objects.trainer_pod import CONTAINER, Mounts, profile_variables, trainer_mounts
from sam3ft_launch.kubernetes.settings import ClusterSettings
from sam3ft_launch.launcher import LAUNCHER_MODULE, budget_arguments, grace_arguments

BACKOFF_LIMIT = 100_000
"""Failed pods that the Job itself forgives: budgets are the operator's, which sees why a pod ended."""
INDEX = "$(JOB_COMPLETION_INDEX)"
"""Number of a pod in its Job; the Job's controller sets the variable in every container."""


def worker_job(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    """Return the Job. Later only parallelism and completions change, and `suspend` without Kueue."""
    profile = settings.worker_profiles[plan.placement.profile]
    about = metadata(plan, names.worker_job_name(plan.name, plan.attempt), role=names.ROLE_WORKER, attempt=plan.attempt)
    queue = plan.placement.local_queue
    elastic = {ELASTIC_ANNOTATION: "true"} if queue else {}
    own_labels = labels(plan, role=names.ROLE_WORKER, attempt=plan.attempt)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **about,
            "labels": queued(about["labels"], queue),
            "annotations": {**about["annotations"], **elastic},
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": plan.nodes,
            "parallelism": plan.nodes,
            "backoffLimit": BACKOFF_LIMIT,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": failure_policy(),
            # Kueue's webhook would suspend it as well; said here, no pod starts before admission while it is away.
            "suspend": bool(queue),
            "template": {
                "metadata": {
                    "labels": {**profile.pod_labels, **own_labels},
                    "annotations": {
                        **profile.pod_annotations,
                        names.ANNOTATION_OWNER: f"{plan.namespace}/{plan.name}",
                    },
                },
                "spec": _pod(plan, profile, settings),
            },
        },
    }


def launcher_arguments(plan: JobPlan) -> list[str]:
    """Return the launcher's arguments.

    A node is named like its slot's host name, not like the machine: two workers may share a machine, and a replacement
    takes its predecessor's place by its name.
    """
    job = names.worker_job_name(plan.name, plan.attempt)
    return [
        *("--config", f"{RUN_DIR}/{CONFIG_FILE}"),
        *("--work-dir", f"{WORK_DIR}/work"),
        *("--nproc", str(plan.processes_per_node)),
        *("--coordinator", coordinator_address(plan)),
        *("--node", f"{job}-{INDEX}"),
        *("--slot", INDEX),
        *("--attempt", str(plan.attempt)),
        *("--address", f"$({POD_IP_VARIABLE})"),
        *budget_arguments(plan.budget),
        *grace_arguments(plan.grace_s),
        *("--termination-log", TERMINATION_LOG),
        *(("--warm-spares",) if plan.warm_spares else ()),
    ]


def _pod(plan: JobPlan, profile: WorkerProfile, settings: ClusterSettings) -> dict[str, Any]:
    place = plan.placement
    mounts = _mounts(plan, profile, settings)
    env = [pod_ip(), run_key(plan), *mounts.env]
    amounts = {**place.resources, **profile.extra_resources}
    if plan.gpus_per_node:
        amounts[profile.gpu_resource] = str(plan.gpus_per_node)
    return {
        **restricted_pod(settings),
        **pull_secrets(profile.image_pull_secrets),
        **({"runtimeClassName": profile.runtime_class_name} if profile.runtime_class_name else {}),
        **({"priorityClassName": place.priority_class_name} if place.priority_class_name else {}),
        **({"nodeSelector": dict(place.node_selector)} if place.node_selector else {}),
        **_elsewhere(place.excluded_nodes),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(plan.grace_s),
        "tolerations": [*(_toleration(taint) for taint in place.tolerations), *leaves_dead_nodes(settings)],
        "containers": [
            {
                "name": CONTAINER,
                "image": place.image,
                "imagePullPolicy": profile.image_pull_policy,
                "command": ["python", "-m", LAUNCHER_MODULE],
                "args": launcher_arguments(plan),
                "workingDir": WORK_DIR,
                "env": [*env, *profile_variables(plan, env)],
                "resources": {"requests": amounts, "limits": amounts},
                "securityContext": restricted_container(),
                "volumeMounts": mounts.mounts,
                **last_words(),
            }
        ],
        "volumes": mounts.volumes,
    }


def _mounts(plan: JobPlan, profile: WorkerProfile, settings: ClusterSettings) -> Mounts:
    mounts = trainer_mounts(plan, profile, settings)
    memory: dict[str, Any] = {"medium": "Memory"}
    if plan.placement.shared_memory is not None:
        memory["sizeLimit"] = plan.placement.shared_memory
    mounts.add("shm", {"emptyDir": memory}, "/dev/shm")  # noqa: S108 - the container's own volume
    if isinstance(profile.cache_volume, CacheVolume):
        mounts.add("cache", {"emptyDir": {"sizeLimit": profile.cache_volume.size_limit}}, CACHE_DIR)
        mounts.env.append(variable(ENV_CACHE_DIR, CACHE_DIR))
    return mounts


def _elsewhere(excluded: tuple[str, ...]) -> dict[str, Any]:
    """Return the affinity that keeps pods away from nodes, by the nodes' names: a label of a host may differ."""
    if not excluded:
        return {}
    # A requirement on a field takes one value; all requirements of a term hold together.
    away = [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in excluded]
    required = {"nodeSelectorTerms": [{"matchFields": away}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def _toleration(taint: Toleration) -> dict[str, Any]:
    fields = {
        "key": taint.key,
        "operator": taint.operator,
        "value": taint.value,
        "effect": taint.effect,
        "tolerationSeconds": taint.toleration_seconds,
    }
    return {name: value for name, value in fields.items() if value not in ("", None)}
