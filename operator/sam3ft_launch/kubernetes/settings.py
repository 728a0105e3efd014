"""What the cluster's administrator has decided once for all runs."""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from sam3ft_api import limits, storage
from sam3ft_api.fields import DnsLabel, ImageName, LabelKey, LabelValue, OptionalDnsLabel, OptionalDnsName, Quantity
from sam3ft_api.profiles import DEFAULT_PROFILE, WorkerProfile
from sam3ft_api.storage import StorageProfile

LAUNCHER_PORT = 7350
"""Port of the coordinator for launchers."""
PROGRESS_PORT = 7351
"""Port of the coordinator for `/progress`, `/metrics` and `/healthz`."""

Labels = dict[LabelKey, LabelValue]


def _network(cidr: str) -> str:
    return str(ipaddress.ip_network(cidr))


Cidr = Annotated[str, Field(max_length=49), AfterValidator(_network)]
"""Addresses of a network, as 10.0.0.0/8."""


class ClusterSettings(BaseModel):
    """Settings of the operator that objects are rendered with; a value, equal settings render equal objects.

    The text of the storage profiles is copied into the ConfigMap of every run, because a pod cannot mount a ConfigMap
    of another namespace; it holds endpoints and no secret.

    Attributes:
        operator_image: image of the coordinator.
        trainer_image: image of preflight and workers where neither the run nor its profile names one; may be empty.
        worker_profiles: by name; `default` is always among them.
        storage_profiles: text of the administrator's file of storage profiles; empty for the clouds' own endpoints.
        image_pull_policy: of the coordinator.
        image_pull_secrets: of the coordinator, in the run's namespace.
        run_as_user: uid of every container; None leaves it to the cluster (OpenShift gives each namespace a range).
        coordinator_cpu: request of the coordinator.
        coordinator_cpu_limit: its limit; a throttled coordinator would be silent, so it is far above the request.
        coordinator_memory: request and limit.
        coordinator_priority_class: PriorityClass of coordinator; empty for the cluster's default.
        preflight_cpu: request and limit of the check.
        preflight_memory: the same for memory.
        preflight_ephemeral_storage: the same for the node's disk.
        preflight_deadline_s: seconds after which a check is ended.
        operator_namespace: where the operator runs; it asks the coordinators for their progress.
        operator_labels: of the operator's pods.
        prometheus_namespace_labels: of the namespace from which the coordinators are scraped; empty when none is.
        store_cidrs: addresses that pods may connect to, for object stores and the hub.
        store_namespace_labels: of namespaces with object stores inside the cluster; some networks do not count pods
            among the addresses. Empty when there are none.
        unreachable_s: seconds that a pod stays on a node which does not answer.
        service_queue: LocalQueue of Kueue for preflight and coordinator of runs that name a queue; empty keeps them out
            of Kueue, as far as the namespace has no LocalQueue named `default`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    operator_image: Annotated[ImageName, Field(min_length=1)]
    trainer_image: ImageName = ""
    worker_profiles: Annotated[dict[DnsLabel, WorkerProfile], Field(validate_default=True)] = {}
    storage_profiles: Annotated[str, Field(max_length=limits.MAX_FILE_BYTES)] = ""
    image_pull_policy: Annotated[str, Field(pattern=r"^(Always|IfNotPresent|Never)$")] = "IfNotPresent"
    image_pull_secrets: tuple[DnsLabel, ...] = ()
    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = 65532
    coordinator_cpu: Quantity = "50m"
    coordinator_cpu_limit: Quantity = "1"
    coordinator_memory: Quantity = "64Mi"
    coordinator_priority_class: OptionalDnsName = ""
    preflight_cpu: Quantity = "2"
    preflight_memory: Quantity = "4Gi"
    preflight_ephemeral_storage: Quantity = "10Gi"
    preflight_deadline_s: Annotated[int, Field(ge=60, le=limits.MAX_SECONDS)] = 21_600
    operator_namespace: DnsLabel = "sam3ft-system"
    operator_labels: Labels = {"app.kubernetes.io/name": "sam3ft-operator"}
    prometheus_namespace_labels: Labels = {}
    store_cidrs: tuple[Cidr, ...] = ("0.0.0.0/0", "::/0")
    store_namespace_labels: Labels = {}
    unreachable_s: Annotated[int, Field(ge=0, le=3600)] = 5
    service_queue: OptionalDnsLabel = ""

    @field_validator("worker_profiles")
    @classmethod
    def _default_is_there(cls, profiles: dict[str, WorkerProfile]) -> dict[str, WorkerProfile]:
        return {DEFAULT_PROFILE: WorkerProfile(), **profiles}

    @property
    def known_storage_profiles(self) -> Mapping[str, StorageProfile]:
        """Storage profiles by name; `default` is always among them.

        Raises:
            InvalidConfig: the text is no such file.
        """
        return _storage_profiles(self.storage_profiles)


@lru_cache(maxsize=8)
def _storage_profiles(text: str) -> Mapping[str, StorageProfile]:
    """Read the text once for thousands of runs."""
    if not text.strip():
        return MappingProxyType({storage.DEFAULT_PROFILE: StorageProfile()})
    return MappingProxyType(storage.parse_profiles(text, name="storage profiles"))
