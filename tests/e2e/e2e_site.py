"""A cluster of real nodes with the project's images and chart, and what a user does there, told as a story."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from builders import Builder
from chart_bench import CHART, Helm
from control_plane import ControlPlane, kubectl
from node import RealNode
from real_nodes import RealNodes

from images import NOT_PUBLISHED, TEST_BASE, TEST_BUILD_BASE, build, image_name, parse

ROOT = CHART.parents[1]
DATA = ROOT / "examples" / "blood-cells"
OPERATORS, NAMESPACE = "sam3ft-system", "lab"
BASES = ("--base", TEST_BASE, "--build-base", TEST_BUILD_BASE)
Run = dict[str, Any]


class Story:
    """Says what happens, with the seconds since the beginning."""

    def __init__(self) -> None:
        """Begin now."""
        self._begun_s = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self._begun_s:7.1f} s  {text}", flush=True)


class Site:
    """The cluster and what the tests do there.

    Attributes:
        images: repository and tag in the cluster's registry, by name.
    """

    def __init__(self, plane: ControlPlane, nodes: RealNodes, helm: Helm, story: Story) -> None:
        """Remember them."""
        self.plane, self.nodes, self.helm, self.story = plane, nodes, helm, story
        self.images: dict[str, tuple[str, str]] = {}

    def push(self, builder: Builder) -> None:
        """Build both images and copy them into the cluster's registry."""
        for name, words in (("operator", ()), ("trainer", ("--variant", NOT_PUBLISHED))):
            given: argparse.Namespace = parse(["build", name, "--prefix", "localhost/sam3ft-test", *BASES, *words])
            facts = build(builder, name, given)
            tag = image_name(name, given).rpartition(":")[2]
            begun_s = time.monotonic()
            self.images[name] = self.copy(builder, facts["image"], name, tag)
            took_s = time.monotonic() - begun_s
            self.story(
                f"{name}: {facts['bytes'] / 1e6:.0f} MB, built in {facts['seconds']} s, pushed in {took_s:.1f} s"
            )

    def copy(self, builder: Builder, image: str, name: str, tag: str) -> tuple[str, str]:
        """Copy an image into the cluster's registry; returns repository and tag."""
        target = f"{self.nodes.registry}/sam3ft/{name}"
        builder.push(image, f"{target}:{tag}", is_plain=True)
        return target, tag

    def pull(self) -> None:
        """Let every node fetch and unpack the trainer's image, as it has it after a cluster's first run."""
        begun_s, image = time.monotonic(), ":".join(self.images["trainer"])
        names = [f"pull-{node.name}" for node in self.nodes.nodes]
        for name, node in zip(names, self.nodes.nodes, strict=True):
            pod = restricted_pod(name, image, nodeName=node.name, restartPolicy="Never")
            pod["spec"]["containers"][0]["command"] = ["python", "-c", ""]
            kubectl(self.plane, "create", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(pod))
        done = ("--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s")
        kubectl(self.plane, "wait", "-n", NAMESPACE, *done, *(f"pod/{name}" for name in names))
        kubectl(self.plane, "delete", "pod", "-n", NAMESPACE, *names)
        self.story(f"the trainer's image is on every node ({time.monotonic() - begun_s:.1f} s)")

    def upload(self, folder: Path = DATA, prefix: str = "blood-cells") -> None:
        """Put a data set into a bucket; buckets are made where they are missing."""
        import obstore  # noqa: PLC0415 - loads a runtime
        from obstore.store import S3Store  # noqa: PLC0415

        for bucket in ("datasets", "runs", "models"):
            (self.nodes.folder / "s3" / bucket).mkdir(exist_ok=True)
        access, secret = self.nodes.s3_keys
        store = S3Store(
            "datasets",
            prefix=prefix,
            endpoint=self.nodes.s3_endpoint,
            region="us-east-1",
            access_key_id=access,
            secret_access_key=secret,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in files:
            obstore.put(store, path.relative_to(folder).as_posix(), path)
        self.story(f"{len(files)} files of {prefix} are in a bucket")

    def values(self, **more: Any) -> dict[str, Any]:
        """Return values of the chart for this cluster."""
        operator, trainer = self.images["operator"], self.images["trainer"]
        # A core each: with what else is there, two workers do not fit on one node of two cores.
        small = {"cpu": "1", "memory": "2Gi", "ephemeralStorage": "3Gi", "sharedMemory": "256Mi"}
        profile = {"resources": small, "cacheVolume": {"sizeLimit": "1Gi"}}
        forgetful = profile | {"resources": small | {"memory": "300Mi", "sharedMemory": "64Mi"}}
        return {
            "image": {"repository": operator[0], "tag": operator[1]},
            "trainerImage": {"repository": trainer[0], "tag": trainer[1]},
            "workerProfiles": {"default": profile, "little-memory": forgetful},
            "storageProfiles": {
                "default": {
                    "endpoint": self.nodes.s3_endpoint,
                    "region": "us-east-1",
                    "allowHttp": True,
                    "allowNetworks": ["private"],
                }
            },
            "runs": {"preflightCpu": "1", "preflightMemory": "2Gi", "preflightEphemeralStorage": "3Gi"},
        } | more

    def namespaces(self) -> None:
        """Make the namespaces of operators and runs, both of which enforce restricted pods, and the runs' Secret."""
        for name in (OPERATORS, NAMESPACE):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            self.plane.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        access, secret = self.nodes.s3_keys
        self.secret("s3", AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret)

    def install(self, verb: str = "install", chart: Path = CHART, **more: Any) -> None:
        """Install or upgrade a chart, and wait until its operators are ready."""
        values = self.helm.values(**self.values(**more))
        words = ("-n", OPERATORS, "-f", str(values), "--wait", "--timeout", "300s")
        self.helm(verb, "sam3ft", str(chart), *words)
        self.story(f"helm {verb}: two operators are ready")

    def secret(self, name: str, **keys: str) -> None:
        """Make a Secret in the runs' namespace."""
        self.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys})

    def apply(self, name: str, *, steps: int, **sections: dict[str, Any]) -> None:
        """Apply a run for two nodes; sections are merged over its own."""
        spec: dict[str, dict[str, Any]] = {
            "model": {"uri": "preset:tiny"},
            "data": {"uri": "s3://datasets/blood-cells", "phrases": {"rbc": ["red blood cell"]}},
            "training": {
                "maxSteps": steps,
                "globalBatchSize": 4,
                "precision": "fp32",
                "resolution": 224,
                "config": {"runtime": {"threads": 1, "log_every": 1}},
            },
            "workers": {"nodes": 2, "gpusPerNode": 0, "terminationGracePeriodSeconds": 30},
            "checkpoint": {"uri": f"s3://runs/{name}", "everySteps": 10},
            "evaluation": {"metric": "bbox_AP50", "baseline": False},
            "export": {"uri": f"s3://models/{name}"},
            "storage": {"secretRef": "s3"},
        }
        for section, fields in sections.items():
            spec[section] = spec.get(section, {}) | fields
        kind = {"apiVersion": "sam3ft.dev/v1alpha1", "kind": "SAM3FineTune"}
        self.create({**kind, "metadata": {"name": name}, "spec": spec})
        self.story(f"kubectl apply: {name}")

    def create(self, document: dict[str, Any]) -> None:
        """Create an object in the runs' namespace."""
        kubectl(self.plane, "create", "-n", NAMESPACE, "-f", "-", stdin=json.dumps(document))

    def in_lab(self, verb: str, *words: str) -> str:
        """Return what kubectl prints about the runs' namespace."""
        return kubectl(self.plane, verb, "-n", NAMESPACE, *words)

    def run(self, name: str) -> Run:
        """Return a run as it stands."""
        # Not by kubectl, whose start costs a tenth of a second of the cores that the run needs: this is asked often.
        path = f"/apis/sam3ft.dev/v1alpha1/namespaces/{NAMESPACE}/sam3finetunes/{name}"
        found: Run = json.loads(self.plane.get(path))
        return found

    def step(self, name: str) -> int:
        """Return the step of a run's progress."""
        return step_of(self.run(name))

    def wait(
        self, name: str, what: str, condition: Callable[[Run], Any], *, within_s: float = 300.0, may_fail: bool = False
    ) -> float:
        """Wait until something holds of a run, telling each phase; returns the seconds it took."""
        begun_s, said = time.monotonic(), ""
        while True:
            run = self.run(name)
            status = run.get("status") or {}
            line = f"{name}: {status.get('phase', 'new')}: {_summary(status)}"
            if line != said:
                self.story(line)
                said = line
            if condition(run):
                self.story(f"{what} ({time.monotonic() - begun_s:.1f} s)")
                return time.monotonic() - begun_s
            assert may_fail or status.get("phase") != "Failed", self.tell(name)
            assert time.monotonic() - begun_s < within_s, f"{what} did not come to pass\n{self.tell(name)}"
            time.sleep(0.5)

    def pods(self, name: str, role: str) -> list[dict[str, Any]]:
        """Return a run's living pods of a role, by name."""
        selector = quote(f"sam3ft.dev/role={role},sam3ft.dev/run={name}")
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector={selector}"
        found = json.loads(self.plane.get(path))["items"]
        running = [pod for pod in found if pod["status"].get("phase") == "Running"]
        living = [pod for pod in running if not pod["metadata"].get("deletionTimestamp")]
        return sorted(living, key=lambda pod: str(pod["metadata"]["name"]))

    def ended_check(self, name: str) -> dict[str, Any]:
        """Return the pod of a run's check."""
        selector = f"sam3ft.dev/role=preflight,sam3ft.dev/run={name}"
        (found,) = json.loads(self.in_lab("get", "pods", "-l", selector, "-o", "json"))["items"]
        pod: dict[str, Any] = found
        return pod

    def node_of(self, pod: dict[str, Any]) -> RealNode:
        """Return the node of a pod."""
        return next(node for node in self.nodes.nodes if node.name == pod["spec"]["nodeName"])

    def tell(self, name: str) -> str:
        """Return what is to be known about a run that does not go on."""
        parts = [
            self.in_lab("describe", "sft", name),
            kubectl(self.plane, "get", "pods", "-A", "-o", "wide"),
            self.in_lab("get", "events", "--sort-by=.lastTimestamp"),
        ]
        talking = [pod for role in ("worker", "preflight", "coordinator") for pod in self.pods(name, role)]
        parts += [self.in_lab("logs", pod["metadata"]["name"], "--tail=40") for pod in talking]
        return "\n".join(parts)[-20_000:]


def restricted_pod(name: str, image: str, **spec: Any) -> dict[str, Any]:
    """Return a pod of one container that a namespace of restricted pods takes."""
    safe = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    containers = [{"name": "main", "image": image, "securityContext": safe}]
    whole = {"containers": containers, "securityContext": security, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole}


def phase_of(run: Run) -> str:
    """Return the phase of a run; empty for one that nobody has looked at."""
    return str((run.get("status") or {}).get("phase") or "")


def step_of(run: Run) -> int:
    """Return the step of a run's progress."""
    return int(((run.get("status") or {}).get("progress") or {}).get("step") or 0)


def _summary(status: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in (status.get("summary") or {}).items() if value)
