"""Runs to render, and the rules that every rendered object keeps."""

import copy
import re
from collections.abc import Iterator
from typing import Any

from kubernetes import client

from sam3ft_api.plan import JobPlan
from sam3ft_api.profiles import parse_worker_profiles
from sam3ft_api.spec import API_VERSION, KIND, SAM3FineTune
from sam3ft_launch.kubernetes.plan import plan_on_cluster
from sam3ft_launch.kubernetes.render import KubernetesSubmission, render
from sam3ft_launch.kubernetes.settings import ClusterSettings

UID = "6f1f7a52-5a6b-4b0e-9a51-0f5f0e6c9d11"
SPEC: dict[str, Any] = {
    "model": {"uri": "s3://models/sam3"},
    "data": {"uri": "s3://datasets/blood"},
    "training": {"globalBatchSize": 64},
    "workers": {"nodes": 2, "maxNodes": 4, "gpusPerNode": 8},
    "checkpoint": {"uri": "s3://runs/blood"},
}
PROFILES = """
profiles:
  a100:
    image: registry.example/profile:1
    imagePullSecrets: [registry]
    resources: {cpu: 32, memory: 256Gi, ephemeralStorage: 400Gi, sharedMemory: 16Gi}
    extraResources: {rdma/hca: 1}
    env: {NCCL_IB_HCA: mlx5, PRICE: "5$(POD_IP)"}
    nodeSelector: {gpu.example/kind: a100}
    tolerations: [{key: nvidia.com/gpu, operator: Exists}]
    runtimeClassName: nvidia
    cacheVolume: {sizeLimit: 300Gi}
    podLabels: {sidecar.istio.io/inject: "false"}
    podAnnotations: {linkerd.io/inject: disabled}
    proxy: {https: "http://proxy.example:3128", noProxy: .example}
    caConfigMap: site-ca
  plain: {cacheVolume: none, gpuResource: amd.com/gpu}
"""
SETTINGS = ClusterSettings(
    operator_image="registry.example/operator:1",
    trainer_image="registry.example/trainer:1",
    worker_profiles=parse_worker_profiles(PROFILES, name="profiles"),
)


def spec_with(**sections: dict[str, Any]) -> dict[str, Any]:
    """Return the spec with keys of its sections replaced."""
    spec = copy.deepcopy(SPEC)
    for section, values in sections.items():
        spec[section] = {**spec.get(section, {}), **values}
    return spec


def finetune(spec: dict[str, Any] | None = None, *, name: str = "blood-cells", namespace: str = "lab") -> SAM3FineTune:
    """Return a resource."""
    metadata = {"name": name, "namespace": namespace}
    return SAM3FineTune.model_validate(
        {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": SPEC if spec is None else spec}
    )


def planned(
    resource: SAM3FineTune | None = None,
    *,
    settings: ClusterSettings = SETTINGS,
    uid: str = UID,
    attempt: int = 1,
    nodes: int | None = None,
    excluded: tuple[str, ...] = (),
) -> JobPlan:
    """Return the plan of an attempt with the nodes that the resource asks for."""
    resource = finetune() if resource is None else resource
    return plan_on_cluster(
        resource,
        uid=uid,
        attempt=attempt,
        nodes=resource.spec.workers.nodes if nodes is None else nodes,
        excluded_nodes=excluded,
        settings=settings,
    )


def rendered(
    resource: SAM3FineTune | None = None, *, settings: ClusterSettings = SETTINGS, **changes: Any
) -> KubernetesSubmission:
    """Return the objects of an attempt."""
    return render(planned(resource, settings=settings, **changes), settings)


def of_kind(submission: KubernetesSubmission, kind: str, role: str) -> dict[str, Any]:
    """Return the one object of a kind and a role."""
    found = [
        thing
        for thing in submission.objects
        if (thing["kind"], thing["metadata"]["labels"]["sam3ft.dev/role"]) == (kind, role)
    ]
    assert 1 == len(found)
    return found[0]


def worker_pod(submission: KubernetesSubmission) -> dict[str, Any]:
    """Return the spec of the workers' pods."""
    pod: dict[str, Any] = of_kind(submission, "Job", "worker")["spec"]["template"]["spec"]
    return pod


def pods(submission: KubernetesSubmission) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield role, metadata and spec of every pod and pod template."""
    for thing in submission.objects:
        role = thing["metadata"]["labels"]["sam3ft.dev/role"]
        if thing["kind"] == "Pod":
            yield role, thing["metadata"], thing["spec"]
        elif thing["kind"] == "Job":
            yield role, thing["spec"]["template"]["metadata"], thing["spec"]["template"]["spec"]


def arguments(container: dict[str, Any]) -> dict[str, str]:
    """Return the options of a command line by name."""
    words = container["args"]
    values = [*words[1:], "--"]
    return {
        word: "" if value.startswith("--") else value
        for word, value in zip(words, values, strict=True)
        if word.startswith("--")
    }


def environment(container: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a container by name; each stands there once."""
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def restriction_problems(pod: dict[str, Any]) -> list[str]:
    """Return what the restricted Pod Security Standard has against a pod, and what we forbid besides."""
    problems = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if key in pod]
    problems += [f"{key} is set" for key in ("serviceAccountName", "serviceAccount") if key in pod]
    problems += [
        f"{key} is not off" for key in ("automountServiceAccountToken", "enableServiceLinks") if pod.get(key, 1)
    ]
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
        problems.append("may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        problems.append("has no seccomp profile")
    if "sysctls" in security:
        problems.append("sets sysctls")
    allowed = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    problems += [
        f"volume {volume['name']}" for volume in pod.get("volumes", ()) if not set(volume) - {"name"} <= allowed
    ]
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            problems.append("may gain privileges")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            problems.append("keeps capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            problems.append("may write to its root")
        if set(own) - {"allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem"}:
            problems.append("has more in its security context")
        problems += [f"port {port} of the host" for port in container.get("ports", ()) if "hostPort" in port]
    return problems


def structure_problems(thing: dict[str, Any]) -> list[str]:
    """Return every key and type of an object that the published models of the API do not know."""
    model = {"NetworkPolicy": "V1NetworkPolicy"}.get(thing["kind"], f"V1{thing['kind']}")
    return list(_problems(thing, model, thing["kind"]))


_SCALARS: dict[str, Any] = {"str": str, "int": int, "bool": bool, "datetime": str, "bytes": str, "object": int | str}


def _problems(value: Any, kind: str, path: str) -> Iterator[str]:
    items = re.fullmatch(r"(?:list|List)\[(.+)\]", kind)
    entries = re.fullmatch(r"[Dd]ict[(\[]str, (.+)[)\]]", kind)
    if kind in _SCALARS:
        if not isinstance(value, _SCALARS[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{path}: {value!r} is no {kind}"
    elif not isinstance(value, list if items else dict):
        yield f"{path}: {value!r} is no {kind}"
    elif items:
        for index, item in enumerate(value):
            yield from _problems(item, items[1], f"{path}[{index}]")
    elif entries:
        for key, item in value.items():
            yield from _problems(item, entries[1], f"{path}.{key}")
    else:
        yield from _group_problems(value, getattr(client, kind), path)


def _group_problems(value: Any, model: Any, path: str) -> Iterator[str]:
    fields = {json: model.openapi_types[name] for name, json in model.attribute_map.items()}
    for key, item in value.items():
        if key not in fields:
            yield f"{path}.{key}: unknown"
        else:
            yield from _problems(item, fields[key], f"{path}.{key}")
