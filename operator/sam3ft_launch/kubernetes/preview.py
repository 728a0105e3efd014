"""What the operator would create for a file, without a cluster."""

from importlib.metadata import version
from pathlib import Path

from sam3ft_api.plan import JobPlan
from sam3ft_api.profiles import load_worker_profiles
from sam3ft_api.spec import SAM3FineTune
from sam3ft_api.storage import load_profiles
from sam3ft_api.yaml import read_text
from sam3ft_launch.kubernetes.plan import plan_on_cluster
from sam3ft_launch.kubernetes.render import KubernetesSubmission, render
from sam3ft_launch.kubernetes.settings import ClusterSettings

NO_UID = "00000000-0000-0000-0000-000000000000"
"""Stands where the API server puts the resource's UID."""


def settings_from(*, worker_profiles: Path | None, storage_profiles: Path | None) -> ClusterSettings:
    """Return the settings of a cluster with this release's images and the administrator's files.

    Raises:
        InvalidConfig: a file cannot be read or is wrong; every problem is listed.
    """
    if storage_profiles is not None:
        load_profiles(storage_profiles)  # so that a wrong file is named by its path
    release = version("sam3ft")
    return ClusterSettings(
        operator_image=f"sam3ft-operator:{release}",
        trainer_image=f"sam3ft-trainer:{release}",
        worker_profiles={} if worker_profiles is None else load_worker_profiles(worker_profiles),
        storage_profiles="" if storage_profiles is None else read_text(storage_profiles),
    )


def preview(finetune: SAM3FineTune, *, source: str, settings: ClusterSettings) -> tuple[JobPlan, KubernetesSubmission]:
    """Return the plan of the first attempt and its objects.

    Raises:
        InvalidConfig: as `plan_on_cluster`.
    """
    plan = plan_on_cluster(
        finetune,
        uid=finetune.metadata.uid or NO_UID,
        attempt=1,
        nodes=finetune.spec.workers.nodes,
        excluded_nodes=(),
        settings=settings,
        source=source,
    )
    return plan, render(plan, settings)
