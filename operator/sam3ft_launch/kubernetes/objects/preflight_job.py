"""The Job that checks data, model and storage on a CPU before any accelerator is taken."""

from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_api.profiles import WorkerProfile
from sam3ft_launch.kubernetes.objects.config_map import CONFIG_FILE
from sam3ft_launch.kubernetes.objects.job import failure_policy, queued
from sam3ft_launch.kubernetes.objects.metadata import WHOLE_RUN, labels, metadata
from sam3ft_launch.kubernetes.objects.pod import (
    RUN_DIR,
    TERMINATION_LOG,
    WORK_DIR,
    last_words,
    leaves_dead_nodes,
    pull_secrets,
    restricted_container,
    restricted_pod,
)
from sam3ft_launch.kubernetes.objects.trainer_pod import CONTAINER, profile_variables, trainer_mounts
from sam3ft_launch.kubernetes.settings import ClusterSettings

BACKOFF_LIMIT = 3
"""Ends that are forgiven: the check itself waits for a store that is away, so more says nothing new."""


def preflight_job(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    """Return the Job; its pod's termination message is `sam3ft_api.termination.Termination`.

    It asks for no accelerator and takes no node selector or toleration, so that it does not wait for such nodes.
    """
    profile = settings.worker_profiles[plan.placement.profile]
    about = metadata(plan, names.preflight_name(plan.name), role=names.ROLE_PREFLIGHT, attempt=WHOLE_RUN)
    queue = settings.service_queue if plan.placement.local_queue else ""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**about, "labels": queued(about["labels"], queue)},
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "activeDeadlineSeconds": settings.preflight_deadline_s,
            "podFailurePolicy": failure_policy(),
            "podReplacementPolicy": "Failed",
            "suspend": bool(queue),
            "template": {
                "metadata": {
                    "labels": {
                        **profile.pod_labels,
                        **labels(plan, role=names.ROLE_PREFLIGHT, attempt=WHOLE_RUN),
                    },
                    "annotations": {
                        **profile.pod_annotations,
                        names.ANNOTATION_OWNER: f"{plan.namespace}/{plan.name}",
                    },
                },
                "spec": _pod(plan, profile, settings),
            },
        },
    }


def _pod(plan: JobPlan, profile: WorkerProfile, settings: ClusterSettings) -> dict[str, Any]:
    mounts = trainer_mounts(plan, profile, settings)
    amounts = {
        "cpu": settings.preflight_cpu,
        "memory": settings.preflight_memory,
        "ephemeral-storage": settings.preflight_ephemeral_storage,
    }
    return {
        **restricted_pod(settings),
        **pull_secrets(profile.image_pull_secrets),
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "tolerations": leaves_dead_nodes(settings),
        "containers": [
            {
                "name": CONTAINER,
                "image": plan.placement.image,
                "imagePullPolicy": profile.image_pull_policy,
                "command": ["python", "-m", "sam3ft_trainer", "check"],
                "args": [
                    "--for-others",
                    *("--config", f"{RUN_DIR}/{CONFIG_FILE}"),
                    *("--nproc", str(plan.world_size)),
                    *("--termination-log", TERMINATION_LOG),
                ],
                "workingDir": WORK_DIR,
                "env": [*mounts.env, *profile_variables(plan, mounts.env)],
                "resources": {"requests": amounts, "limits": amounts},
                "securityContext": restricted_container(),
                "volumeMounts": mounts.mounts,
                **last_words(),
            }
        ],
        "volumes": mounts.volumes,
    }
