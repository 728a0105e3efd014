"""The coordinator's pod of one attempt: small, and the only one that decides who belongs to the group."""

from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_api.worker import ENV_RUN_KEY
from sam3ft_launch.kubernetes.objects.job import queued
from sam3ft_launch.kubernetes.objects.metadata import metadata
from sam3ft_launch.kubernetes.objects.pod import (
    POD_IP_VARIABLE,
    last_words,
    leaves_dead_nodes,
    pod_ip,
    pull_secrets,
    restricted_container,
    restricted_pod,
)
from sam3ft_launch.kubernetes.objects.secret import KEY_FIELD
from sam3ft_launch.kubernetes.settings import LAUNCHER_PORT, PROGRESS_PORT, ClusterSettings

CONTAINER = "coordinator"


def coordinator_pod(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    """Return the pod; the next attempt's has the same name, so there are never two of a run."""
    about = metadata(plan, names.coordinator_name(plan.name), role=names.ROLE_COORDINATOR, attempt=plan.attempt)
    queue = settings.service_queue if plan.placement.local_queue else ""
    priority = settings.coordinator_priority_class
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**about, "labels": queued(about["labels"], queue)},
        "spec": {
            **restricted_pod(settings),
            **pull_secrets(settings.image_pull_secrets),
            **({"priorityClassName": priority} if priority else {}),
            # Launchers go on without it and come back to it, so it starts again where it ended.
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 5,
            "tolerations": leaves_dead_nodes(settings),
            "containers": [_container(plan, settings)],
        },
    }


def _container(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    memory = settings.coordinator_memory
    probe = {"httpGet": {"path": "/healthz", "port": "progress"}}
    return {
        "name": CONTAINER,
        "image": settings.operator_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "sam3ft_launch.coordinator"],
        "args": [
            # The pod's own address is right in clusters of either family, and of both.
            *("--listen", f"$({POD_IP_VARIABLE}):{LAUNCHER_PORT}"),
            *("--progress-listen", f"$({POD_IP_VARIABLE}):{PROGRESS_PORT}"),
            *("--nodes", str(plan.nodes)),
            *("--min-nodes", str(plan.min_nodes)),
            *("--max-nodes", str(plan.max_nodes)),
            *("--attempt", str(plan.attempt)),
            *("--gate-deadline-s", f"{plan.start_deadline_s:g}"),
        ],
        "env": [pod_ip(), run_key(plan)],
        "ports": [
            {"name": "launchers", "containerPort": LAUNCHER_PORT, "protocol": "TCP"},
            {"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {**probe, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3},
        "livenessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
        "resources": {
            "requests": {"cpu": settings.coordinator_cpu, "memory": memory},
            "limits": {"cpu": settings.coordinator_cpu_limit, "memory": memory},
        },
        "securityContext": restricted_container(),
        **last_words(),
    }


def run_key(plan: JobPlan) -> dict[str, Any]:
    """Return the variable with the run's key, from which launchers and coordinator derive the attempt's token."""
    return {
        "name": ENV_RUN_KEY,
        "valueFrom": {"secretKeyRef": {"name": names.token_name(plan.name), "key": KEY_FIELD}},
    }
