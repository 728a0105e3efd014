"""The ConfigMap of a run: what its pods read."""

from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.kubernetes.objects.metadata import WHOLE_RUN, metadata
from sam3ft_launch.kubernetes.settings import ClusterSettings

CONFIG_FILE = "config.json"
STORAGE_FILE = "storage.yaml"
SOURCE_FILE = "finetune.yaml"


def run_config_map(plan: JobPlan, settings: ClusterSettings) -> dict[str, Any]:
    """Return the ConfigMap with the config document, the storage profiles where there are any, and the user's file.

    It cannot be changed: the document is what the run's checkpoints are bound to, and nodes need not watch it.
    """
    files = {CONFIG_FILE: config_text(plan.config)}
    if plan.source:
        files[SOURCE_FILE] = plan.source
    if settings.storage_profiles.strip():
        files[STORAGE_FILE] = settings.storage_profiles
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(plan, names.config_name(plan.name), role=names.ROLE_PREFLIGHT, attempt=WHOLE_RUN),
        "immutable": True,
        "data": files,
    }


def config_text(config: TrainingConfig) -> str:
    """Return the config document as it stands in the ConfigMap."""
    return config.model_dump_json(indent=2) + "\n"
