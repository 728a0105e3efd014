"""Worker profiles: what the administrator says of a kind of node, so that a run names a profile and nothing more.

The file (YAML 1.2) belongs to the operator; a run chooses one by `workers.profile`. Secrets never stand in it.

    profiles:
      default: {}
      a100:
        image: registry.example/sam3ft-trainer:1.0
        resources: {cpu: 32, memory: 256Gi, ephemeralStorage: 400Gi, sharedMemory: 16Gi}
        extraResources: {rdma/hca: 1}
        env: {NCCL_IB_HCA: mlx5, NCCL_DEBUG: WARN}
        nodeSelector: {gpu.example/kind: a100}
        tolerations: [{key: nvidia.com/gpu, operator: Exists}]
        cacheVolume: {sizeLimit: 300Gi}
        podLabels: {sidecar.istio.io/inject: "false"}
        proxy: {https: "http://proxy.example:3128", noProxy: ".svc,.example"}
        caConfigMap: site-ca

There is no hostPath, no service account, no privilege: whatever stands here, the pods stay within the restricted Pod
Security Standard.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator

from sam3ft_api import limits
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.fields import (
    FREE_TEXT,
    DnsLabel,
    EnvName,
    ExtendedResource,
    ImageName,
    LabelKey,
    LabelValue,
    OptionalDnsName,
    Quantity,
)
from sam3ft_api.redact import redact, shown
from sam3ft_api.section import SpecSection, without_nulls
from sam3ft_api.spec import GROUP
from sam3ft_api.spec_workers import LabelMap, ResourcesSpec, TolerationSpec
from sam3ft_api.yaml import read_as, read_text

DEFAULT_PROFILE = "default"
"""The profile that exists without a file."""
RESERVED_ENV = "SAM3FT_"
"""Prefix of the variables that the launcher's and the workers' contract owns."""
RESERVED_NAMES = ("JOB_COMPLETION_INDEX", "POD_IP")
"""Variables that the launcher's arguments refer to."""
RESERVED_DOMAINS = (GROUP, "kueue.x-k8s.io", "app.kubernetes.io", "batch.kubernetes.io", "kubernetes.io")
"""Domains of labels and annotations that are not the profile's to set."""
_SECRET_NAME = re.compile(
    r"(?i)(secret|passw|token|access_?key|private_?key|credential|api_?key|otlp_(metrics_)?headers)"
)

Text = Annotated[str, StringConstraints(max_length=4096, pattern=FREE_TEXT)]
EnvMap = Annotated[dict[EnvName, Text], BeforeValidator(without_nulls), Field(max_length=128)]
ProxyUrl = Annotated[str, StringConstraints(max_length=512, pattern=r"^https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?/?$")]


class CacheVolume(SpecSection):
    """A volume of the worker's own on the node's disk, for images and a copy of the newest commit."""

    size_limit: Annotated[
        Quantity, Field(description="Its size; the pod is evicted beyond it, so the cache keeps to half of it.")
    ]


class ProxySpec(SpecSection):
    """How workers reach the outside where there is no direct way. Addresses hold no credentials."""

    http: Annotated[ProxyUrl | None, Field(description="For http:// addresses, as http://proxy.example:3128.")] = None
    https: Annotated[ProxyUrl | None, Field(description="For https:// addresses.")] = None
    no_proxy: Annotated[
        Text, Field(description="Hosts reached directly, with commas; what is inside the cluster is added.")
    ] = ""


class WorkerProfile(SpecSection):
    """One kind of worker, as the administrator describes it."""

    image: Annotated[ImageName, Field(description="Trainer image; empty takes the operator's default.")] = ""
    image_pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Field(description="When the node asks the registry.")
    ] = "IfNotPresent"
    image_pull_secrets: Annotated[
        tuple[DnsLabel, ...], Field(max_length=8, description="Secrets in the run's namespace with registry logins.")
    ] = ()
    gpu_resource: Annotated[
        ExtendedResource, Field(description="What workers.gpusPerNode counts, as the device plugin calls it.")
    ] = "nvidia.com/gpu"
    resources: Annotated[ResourcesSpec, Field(description="Of one worker, where the run names none.")] = ResourcesSpec()
    extra_resources: Annotated[
        dict[ExtendedResource, Quantity],
        BeforeValidator(without_nulls),
        Field(max_length=16, default_factory=dict, description="Other devices of one worker, as rdma/hca: 1."),
    ]
    env: Annotated[EnvMap, Field(default_factory=dict, description="Variables of the workers; never a secret.")]
    node_selector: Annotated[
        LabelMap, Field(default_factory=dict, description="Labels that a node must have, besides the run's own.")
    ]
    tolerations: Annotated[
        tuple[TolerationSpec, ...],
        Field(max_length=limits.MAX_TOLERATIONS, description="Taints that are accepted, besides the run's own."),
    ] = ()
    runtime_class_name: Annotated[
        OptionalDnsName, Field(description="RuntimeClass of the workers; empty for the cluster's default.")
    ] = ""
    pod_labels: Annotated[
        dict[LabelKey, LabelValue],
        BeforeValidator(without_nulls),
        Field(max_length=32, default_factory=dict, description="Labels of the pods, as a mesh's opt-out."),
    ]
    pod_annotations: Annotated[
        dict[LabelKey, Text],
        BeforeValidator(without_nulls),
        Field(max_length=32, default_factory=dict, description="Annotations of the pods, as a mesh's opt-out."),
    ]
    cache_volume: Annotated[
        CacheVolume | Literal["none"], Field(description="Cache of a worker on the node's disk, or none.")
    ] = CacheVolume.model_validate({"sizeLimit": "32Gi"})
    proxy: Annotated[ProxySpec, Field(description="How the outside is reached.")] = ProxySpec()
    ca_config_map: Annotated[
        OptionalDnsName,
        Field(
            description="ConfigMap in the run's namespace whose key ca.crt holds every authority to be trusted; empty "
            "trusts those of the image."
        ),
    ] = ""

    @field_validator("env")
    @classmethod
    def _no_reserved_name_and_no_secret(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if name.upper().startswith(RESERVED_ENV) or name in RESERVED_NAMES:
                raise ValueError(
                    f"the variable {name} is reserved: {', '.join(RESERVED_NAMES)} and names that begin with "
                    f"{RESERVED_ENV} are set by the operator"
                )
            if _SECRET_NAME.search(name) or redact(f"{name}={value}") != f"{name}={value}":
                raise ValueError(
                    f"the variable {name} looks like a secret; credentials belong into a Secret that "
                    "storage.secretRef of the run names"
                )
        return env

    @field_validator("pod_labels", "pod_annotations")
    @classmethod
    def _no_reserved_domain(cls, pairs: dict[str, str]) -> dict[str, str]:
        for key in pairs:
            domain = key.rpartition("/")[0]
            if any(domain == reserved or domain.endswith(f".{reserved}") for reserved in RESERVED_DOMAINS):
                raise ValueError(f"the key {key} is reserved: the domains {', '.join(RESERVED_DOMAINS)} are set here")
        return pairs


class WorkerProfiles(SpecSection):
    """The file of profiles."""

    profiles: Annotated[dict[DnsLabel, WorkerProfile], Field(max_length=256, default_factory=dict)]


def load_worker_profiles(path: Path) -> dict[str, WorkerProfile]:
    """Return the profiles of a file by name; `default` is among them whether or not the file has it.

    Raises:
        InvalidConfig: the file cannot be read, is no YAML 1.2, or holds something else; every problem is listed with
            its line, path, value and what is allowed.
    """
    return parse_worker_profiles(read_text(path), name=str(path))


def parse_worker_profiles(text: str, *, name: str) -> dict[str, WorkerProfile]:
    """Return the profiles of a text, as `load_worker_profiles`; an empty text has the default alone.

    Args:
        text: content of the file.
        name: what is read, for messages.

    Raises:
        InvalidConfig: as `load_worker_profiles`.
    """
    if not text.strip():
        return {DEFAULT_PROFILE: WorkerProfile()}
    otherwise = "is no file of worker profiles; see docs/kubernetes-objects.md"
    found = read_as(WorkerProfiles, text, name=name, otherwise=otherwise)
    return {DEFAULT_PROFILE: WorkerProfile(), **found.profiles}


def find_profile(profiles: Mapping[str, WorkerProfile], name: str) -> WorkerProfile:
    """Return one profile.

    Raises:
        InvalidConfig: there is none of that name; the message lists those there are.
    """
    try:
        return profiles[name]
    except KeyError:
        raise InvalidConfig(
            f"spec.workers.profile: {shown(name)} is no worker profile of this cluster; "
            f"expected one of {', '.join(sorted(profiles))}"
        ) from None
