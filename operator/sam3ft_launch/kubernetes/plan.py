"""From a resource to the plan of one attempt on a cluster: pure, and every decision of spec and profile is made."""

import re
from typing import Any, Final

from pydantic import ValidationError

from sam3ft_api import limits
from sam3ft_api.convert import to_training_config
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.fields import LABEL_VALUE
from sam3ft_api.plan import JobPlan, Placement, RestartBudget, StorageAccess, Toleration
from sam3ft_api.problems import find_problems, invalid_config
from sam3ft_api.profiles import CacheVolume, WorkerProfile, find_profile
from sam3ft_api.redact import shown
from sam3ft_api.spec import SAM3FineTune, SAM3FineTuneSpec
from sam3ft_api.spec_workers import TolerationSpec
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.kubernetes.manifest import to_yaml
from sam3ft_launch.kubernetes.objects.config_map import config_text
from sam3ft_launch.kubernetes.quantities import num_bytes
from sam3ft_launch.kubernetes.settings import ClusterSettings

BACKEND: Final = "kubernetes"
DEFAULT_RESOURCES = {"cpu": "4", "memory": "32Gi", "ephemeral-storage": "40Gi"}
"""Of one worker, where neither the run nor its profile says anything."""
DEFAULT_SHARED_MEMORY = "2Gi"


def plan_on_cluster(
    finetune: SAM3FineTune,
    *,
    uid: str,
    attempt: int,
    nodes: int,
    excluded_nodes: tuple[str, ...],
    settings: ClusterSettings,
    source: str | None = None,
) -> JobPlan:
    """Return the plan of one attempt on a cluster.

    Args:
        finetune: a validated resource.
        uid: of the resource, a value of a label.
        attempt: its number.
        nodes: workers of this attempt, within `minNodes` to `maxNodes`.
        excluded_nodes: names of nodes that the workers must not use.
        settings: of the cluster.
        source: text of the user's file, kept beside the run for people; None writes the resource out. It is left
            out where a ConfigMap has no room for it.

    Raises:
        InvalidConfig: an unknown worker or storage profile, no trainer image, nodes outside their range, or anything
            that `to_training_config` refuses; the message names the field.
    """
    spec = finetune.spec
    if not uid or not re.fullmatch(LABEL_VALUE, uid) or len(uid) > 63:
        raise InvalidConfig(f"uid {shown(uid)} is no value of a Kubernetes label; give the resource's metadata.uid")
    profile = find_profile(settings.worker_profiles, spec.workers.profile)
    _check_storage(spec, settings)
    placement = _placement(spec, profile, settings, excluded_nodes)
    config = _with_bounded_cache(to_training_config(finetune, backend=BACKEND, uid=uid), profile, placement)
    try:
        return JobPlan(
            name=finetune.metadata.name,
            namespace=finetune.metadata.namespace,
            uid=uid,
            attempt=attempt,
            backend=BACKEND,
            config=config,
            source=_that_fits(_written(finetune) if source is None else source, config, settings),
            nodes=nodes,
            **_group_of(spec),
            budget=RestartBudget(
                max_restarts=spec.failure_policy.max_restarts,
                window_s=spec.failure_policy.window_seconds,
                max_without_progress=spec.failure_policy.max_without_progress,
            ),
            env=dict(profile.env),
            placement=placement,
            storage=StorageAccess(
                secret=spec.storage.secret_ref,
                profile=spec.storage.profile,
                data_secret=spec.storage.data_secret_ref,
                data_profile=spec.storage.data_profile,
            ),
        )
    except ValidationError as error:
        raise invalid_config(find_problems(error, JobPlan), source=f"{finetune.metadata.name}: plan") from None


def _group_of(spec: SAM3FineTuneSpec) -> dict[str, Any]:
    workers = spec.workers
    return {
        "min_nodes": workers.min_nodes,
        "max_nodes": workers.max_nodes or workers.nodes,
        "processes_per_node": max(1, workers.gpus_per_node),
        "gpus_per_node": workers.gpus_per_node,
        "grace_s": float(workers.termination_grace_period_seconds),
        "start_deadline_s": float(workers.start_deadline_seconds),
        "deadline_s": spec.active_deadline_seconds,
        "warm_spares": workers.warm_spares,
    }


def _placement(
    spec: SAM3FineTuneSpec, profile: WorkerProfile, settings: ClusterSettings, excluded_nodes: tuple[str, ...]
) -> Placement:
    workers = spec.workers
    image = workers.image or profile.image or settings.trainer_image
    if not image:
        raise InvalidConfig(
            f"spec.workers.image: no trainer image; neither the run nor the worker profile {workers.profile} names one "
            "and the operator has no default. Set workers.image, or ask the administrator to set the profile's image"
        )
    own, usual = workers.resources, profile.resources
    wanted = {
        "cpu": own.cpu or usual.cpu,
        "memory": own.memory or usual.memory,
        "ephemeral-storage": own.ephemeral_storage or usual.ephemeral_storage,
    }
    return Placement(
        profile=workers.profile,
        image=image,
        resources={name: amount or DEFAULT_RESOURCES[name] for name, amount in wanted.items()},
        shared_memory=own.shared_memory or usual.shared_memory or DEFAULT_SHARED_MEMORY,
        # The profile describes the nodes, so a run can narrow its choice and never leave it.
        node_selector={**workers.node_selector, **profile.node_selector},
        tolerations=tuple(_toleration(taint) for taint in (*workers.tolerations, *profile.tolerations)),
        priority_class_name=workers.priority_class_name,
        excluded_nodes=excluded_nodes,
        local_queue=spec.queue.local_queue if spec.queue else "",
    )


def _toleration(taint: TolerationSpec) -> Toleration:
    return Toleration(
        key=taint.key or "",
        operator=taint.operator,
        value=taint.value or "",
        effect=taint.effect or "",
        toleration_seconds=taint.toleration_seconds,
    )


def _check_storage(spec: SAM3FineTuneSpec, settings: ClusterSettings) -> None:
    known = settings.known_storage_profiles
    for field, name in (("profile", spec.storage.profile), ("dataProfile", spec.storage.data_profile)):
        if name not in known:
            raise InvalidConfig(
                f"spec.storage.{field}: {shown(name)} is no storage profile of this cluster; "
                f"expected one of {', '.join(sorted(known))}"
            )


def _with_bounded_cache(config: TrainingConfig, profile: WorkerProfile, placement: Placement) -> TrainingConfig:
    """Bound the cache of images by its volume: a worker sees the whole disk, and is evicted beyond the volume's size.

    Half is left to the copy of the newest commit, as on a machine without a volume.
    """
    if config.runtime.cache_bytes is not None or not isinstance(profile.cache_volume, CacheVolume):
        return config
    room = min(num_bytes(profile.cache_volume.size_limit), num_bytes(placement.resources["ephemeral-storage"]))
    runtime = config.runtime.model_copy(update={"cache_bytes": max(1 << 20, room // 2)})
    return config.model_copy(update={"runtime": runtime})


def _written(finetune: SAM3FineTune) -> str:
    """Return the resource as a YAML document, without what the API server keeps about it."""
    document = finetune.model_dump(mode="json", exclude_unset=True, exclude={"metadata", "status"})
    metadata = finetune.metadata.model_dump(mode="json", include={"name", "namespace", "labels"}, exclude_unset=True)
    head = {key: document[key] for key in ("apiVersion", "kind")}
    return to_yaml([{**head, "metadata": metadata, "spec": document["spec"]}])


def _that_fits(source: str, config: TrainingConfig, settings: ClusterSettings) -> str:
    """Return the user's file where the run's ConfigMap has room for it, else nothing: it is for people alone.

    Raises:
        InvalidConfig: there is no room even for what the pods need.
    """
    needed = len(config_text(config).encode()) + len(settings.storage_profiles.encode())
    if needed > limits.MAX_CONFIG_MAP_BYTES:
        raise InvalidConfig(
            f"the settings of the run need {needed} bytes, and a ConfigMap holds {limits.MAX_CONFIG_MAP_BYTES}; "
            "write phrases into the annotation file instead of spec.data.phrases"
        )
    return source if needed + len(source.encode()) <= limits.MAX_CONFIG_MAP_BYTES else ""
