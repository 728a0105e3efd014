"""Every rendered object is accepted by a real API server, in a namespace that enforces restricted pods."""

import copy
import json
import uuid
from typing import Any
from urllib.error import HTTPError

import pytest
from control_plane import ControlPlane, kubectl
from objects_bench import SETTINGS, finetune, of_kind, rendered, spec_with

from sam3ft_launch.kubernetes.objects.secret import with_key
from sam3ft_launch.kubernetes.render import KubernetesSubmission

pytestmark = pytest.mark.timeout(300)
PATHS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods",
}
EVERYTHING = spec_with(
    workers={"profile": "a100", "warmSpares": True, "tolerations": [{"key": "spot", "operator": "Exists"}]},
    storage={"secretRef": "w", "dataSecretRef": "r"},
)
WIDE = SETTINGS.model_copy(
    update={
        "storage_profiles": "profiles: {lab: {}}",
        "prometheus_namespace_labels": {"kubernetes.io/metadata.name": "monitoring"},
        "store_namespace_labels": {"stores": "yes"},
        "service_queue": "cpu",
    }
)


def create(plane: ControlPlane, thing: dict[str, Any], *, dry: bool) -> dict[str, Any]:
    """Create an object under strict field validation and return it with the server's defaults."""
    path = PATHS[thing["kind"]].format(thing["metadata"]["namespace"])
    made: dict[str, Any] = plane.post(f"{path}?fieldValidation=Strict{'&dryRun=All' if dry else ''}", thing)
    return made


def submissions(namespace: str) -> dict[str, KubernetesSubmission]:
    """Runs that use every branch of the rendering."""
    uid = str(uuid.uuid4())
    cpu = spec_with(workers={"nodes": 1, "maxNodes": 1, "gpusPerNode": 0, "profile": "plain"})
    return {
        "small": rendered(finetune(namespace=namespace), uid=uid),
        "everything": rendered(
            finetune({**EVERYTHING, "queue": {"localQueue": "gpu"}}, name="x" * 63, namespace=namespace),
            settings=WIDE,
            uid=uid,
            attempt=1_000_000,
            excluded=("n1", "n2.example"),
        ),
        "cpu": rendered(finetune(cpu, name="3d-cells", namespace=namespace), uid=uid),
    }


@pytest.mark.parametrize("name", ["small", "everything", "cpu"])
def test_the_api_server_accepts_every_object_as_it_stands(cluster: ControlPlane, namespace: str, name: str):
    for thing in submissions(namespace)[name].objects:
        made = create(cluster, thing, dry=True)

        assert [] == list(differences(thing, made, thing["kind"]))


@pytest.mark.parametrize("name", ["small", "everything", "cpu"])
def test_the_pods_of_every_job_are_accepted_where_pods_are_restricted(cluster: ControlPlane, namespace: str, name: str):
    """A Job whose pods are refused is accepted all the same, so the pods are asked for themselves."""
    for role in ("preflight", "worker"):
        template = of_kind(submissions(namespace)[name], "Job", role)["spec"]["template"]
        # The class is the administrator's, and this cluster has none.
        spec = {key: value for key, value in template["spec"].items() if key != "runtimeClassName"}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": f"a-{role}", "namespace": namespace},
            "spec": spec,
        }

        assert [] == list(differences(pod, create(cluster, pod, dry=True), role))


def test_this_namespace_refuses_a_pod_that_is_not_restricted(cluster: ControlPlane, namespace: str):
    pod = copy.deepcopy(of_kind(submissions(namespace)["small"], "Pod", "coordinator"))
    del pod["spec"]["containers"][0]["securityContext"]["capabilities"]

    with pytest.raises(HTTPError, match="403"):
        create(cluster, pod, dry=True)


def differences(ours: Any, theirs: Any, path: str) -> Any:
    """Yield where the server's object says something else than ours; it may say more."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            # Quantities come back as they are written in the shortest way, and text of a Secret as bytes.
            if key not in theirs:
                if value not in ([], "", False, None) and key != "stringData":
                    yield f"{path}.{key}: is gone"
            else:
                yield from differences(value, theirs[key], f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        # The server adds tolerations of its own behind ours.
        for index, value in enumerate(ours):
            yield from differences(value, theirs[index], f"{path}[{index}]")
    elif ours != theirs:
        yield f"{path}: {ours!r} became {theirs!r}"


def test_the_objects_of_a_run_are_made_and_its_pods_start(cluster: ControlPlane, namespace: str):
    """The Job's controller gives each pod its index as a variable, and the host name by which the launcher goes."""
    spec = spec_with(
        workers={"nodes": 2, "maxNodes": 2, "gpusPerNode": 1, "resources": {"cpu": "100m", "memory": "1Gi"}}
    )
    owner = json.loads(
        kubectl(
            cluster, "create", "-o", "json", "-f", "-",
            stdin=finetune(spec, namespace=namespace).model_dump_json(exclude_none=True, exclude_unset=True),
        )
    )  # fmt: skip
    submission = rendered(finetune(spec, namespace=namespace), uid=owner["metadata"]["uid"])

    for thing in submission.objects:
        create(cluster, with_key(thing, b"k" * 32) if thing["kind"] == "Secret" else thing, dry=False)

    job = of_kind(submission, "Job", "worker")["metadata"]["name"]
    where = f"--namespace={namespace}"
    kubectl(cluster, "wait", where, f"job/{job}", "--for=jsonpath={.status.active}=2", "--timeout=60s")
    found = json.loads(kubectl(cluster, "get", "pods", where, "-o", "json"))["items"]
    workers = [pod for pod in found if pod["metadata"]["labels"]["sam3ft.dev/role"] == "worker"]
    assert {f"{job}-0", f"{job}-1"} == {pod["spec"]["hostname"] for pod in workers}
    for pod in workers:
        names = [entry["name"] for entry in pod["spec"]["containers"][0]["env"]]
        assert 1 == names.count("JOB_COMPLETION_INDEX")
