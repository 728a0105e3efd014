"""From `helm install` to a model that loads: real kubelets, real images, a real S3 server; one worker's process is
killed on the way, and one worker is evicted.

Times of every part are printed: read the output as a story.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import Builder
from chart_bench import CHART, Helm
from control_plane import ControlPlane, kubectl
from machine import MachineUnfit
from real_nodes import ARGUMENTS, RealNodes
from tools_here import need_tool

from components import ComponentMissing, binary
from images import NOT_PUBLISHED, TEST_BASE, TEST_BUILD_BASE, build, image_name, parse

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]
"""It takes the machine's networks and cgroups, and gigabytes for images: `make soak`."""
ROOT = CHART.parents[1]
RUN = "blood"
STEPS = 120
WORKER = "sam3ft_trainer.run.worker"


class Story:
    """Says what happens, with the seconds since the beginning."""

    def __init__(self) -> None:
        """Begin now."""
        self._begun_s = time.monotonic()

    def __call__(self, text: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self._begun_s:7.1f} s  {text}", flush=True)


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


@pytest.fixture(scope="module")
def site(builder: Builder, story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Site"]:
    """Two nodes with images in a registry and data in buckets."""
    folder = tmp_path_factory.mktemp("e2e")
    nodes = RealNodes(folder, count=2)
    try:
        with ControlPlane(folder, arguments=ARGUMENTS) as plane, nodes.of(plane):
            helm = Helm(binary("helm"), folder, kubeconfig=plane.admin_kubeconfig)
            story(f"two nodes are ready ({', '.join(f'{what} {took:.1f}' for what, took in nodes.took_s.items())})")
            found = Site(plane, nodes, helm, story)
            found.push(builder)
            found.upload()
            yield found
    except (ComponentMissing, MachineUnfit) as error:
        need_tool(str(error))


class Site:
    """The cluster and what the test does there."""

    def __init__(self, plane: ControlPlane, nodes: RealNodes, helm: Helm, story: Story) -> None:
        """Remember them."""
        self.plane, self.nodes, self.helm, self.story = plane, nodes, helm, story
        self.images: dict[str, tuple[str, str]] = {}

    def push(self, builder: Builder) -> None:
        """Build both images and copy them into the cluster's registry."""
        for name, words in (("operator", ()), ("trainer", ("--variant", NOT_PUBLISHED))):
            bases = ["--base", TEST_BASE, "--build-base", TEST_BUILD_BASE]
            given: argparse.Namespace = parse(["build", name, "--prefix", "localhost/sam3ft-test", *bases, *words])
            facts = build(builder, name, given)
            tag = image_name(name, given).rpartition(":")[2]
            target = f"{self.nodes.registry}/sam3ft/{name}"
            begun_s = time.monotonic()
            builder.push(facts["image"], f"{target}:{tag}", is_plain=True)
            self.images[name] = (target, tag)
            took_s = time.monotonic() - begun_s
            self.story(
                f"{name}: {facts['bytes'] / 1e6:.0f} MB, built in {facts['seconds']} s, pushed in {took_s:.1f} s"
            )

    def upload(self) -> None:
        """Make the buckets, and put the data set into one."""
        import obstore  # noqa: PLC0415 - loads a runtime
        from obstore.store import S3Store  # noqa: PLC0415

        for bucket in ("datasets", "runs", "models"):
            (self.nodes.folder / "s3" / bucket).mkdir()
        access, secret = self.nodes.s3_keys
        store = S3Store(
            "datasets",
            prefix="blood-cells",
            endpoint=self.nodes.s3_endpoint,
            region="us-east-1",
            access_key_id=access,
            secret_access_key=secret,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        data = ROOT / "examples" / "blood-cells"
        files = [path for path in sorted(data.rglob("*")) if path.is_file()]
        for path in files:
            obstore.put(store, path.relative_to(data).as_posix(), path)
        self.story(f"{len(files)} files of the data set are in a bucket")

    def install(self) -> None:
        """Install the chart."""
        operator, trainer = self.images["operator"], self.images["trainer"]
        # A core each: with what else is there, two workers do not fit on one node of two cores.
        small = {"cpu": "1", "memory": "2Gi", "ephemeralStorage": "3Gi", "sharedMemory": "256Mi"}
        values = self.helm.values(
            image={"repository": operator[0], "tag": operator[1]},
            trainerImage={"repository": trainer[0], "tag": trainer[1]},
            workerProfiles={"default": {"resources": small, "cacheVolume": {"sizeLimit": "1Gi"}}},
            storageProfiles={
                "default": {
                    "endpoint": self.nodes.s3_endpoint,
                    "region": "us-east-1",
                    "allowHttp": True,
                    "allowNetworks": ["private"],
                }
            },
            runs={"preflightCpu": "250m", "preflightMemory": "2Gi", "preflightEphemeralStorage": "3Gi"},
        )
        for name in ("sam3ft-system", "lab"):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            self.plane.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        words = ("--wait", "--timeout", "300s")
        self.helm("install", "sam3ft", str(CHART), "-n", "sam3ft-system", "-f", str(values), *words)
        self.story("the chart is installed, two operators are ready")

    def apply(self) -> None:
        """Apply a run for two nodes, with its Secret."""
        access, secret = self.nodes.s3_keys
        keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        self.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": keys})
        self.create(
            {
                "apiVersion": "sam3ft.dev/v1alpha1",
                "kind": "SAM3FineTune",
                "metadata": {"name": RUN},
                "spec": {
                    "model": {"uri": "preset:tiny"},
                    "data": {"uri": "s3://datasets/blood-cells", "phrases": {"rbc": ["red blood cell"]}},
                    "training": {
                        "maxSteps": STEPS,
                        "globalBatchSize": 4,
                        "precision": "fp32",
                        "resolution": 224,
                        "config": {"runtime": {"threads": 1, "log_every": 1}},
                    },
                    "workers": {"nodes": 2, "gpusPerNode": 0, "terminationGracePeriodSeconds": 30},
                    "checkpoint": {"uri": f"s3://runs/{RUN}", "everySteps": 10},
                    "evaluation": {"metric": "bbox_AP50", "baseline": False},
                    "export": {"uri": f"s3://models/{RUN}"},
                    "storage": {"secretRef": "s3"},
                },
            }
        )
        self.story("kubectl apply")

    def create(self, document: dict[str, Any]) -> None:
        """Create an object in the run's namespace."""
        kubectl(self.plane, "create", "-n", "lab", "-f", "-", stdin=json.dumps(document))

    def run(self) -> dict[str, Any]:
        """Return the run as it stands."""
        found: dict[str, Any] = json.loads(kubectl(self.plane, "get", "sft", RUN, "-n", "lab", "-o", "json"))
        return found

    def step(self) -> int:
        """Return the step of the run's progress."""
        return int(((self.run().get("status") or {}).get("progress") or {}).get("step") or 0)

    def wait(self, what: str, condition: Any, *, within_s: float = 300.0) -> float:
        """Wait until something holds of the run, telling each phase; returns the seconds it took."""
        begun_s, said = time.monotonic(), ""
        while True:
            run = self.run()
            status = run.get("status") or {}
            line = f"{status.get('phase', 'new')}: {status.get('summary', {})}"
            if line != said:
                self.story(line)
                said = line
            if condition(run):
                self.story(f"{what} ({time.monotonic() - begun_s:.1f} s)")
                return time.monotonic() - begun_s
            assert status.get("phase") != "Failed" or "Failed" in what, self.tell()
            assert time.monotonic() - begun_s < within_s, f"{what} did not come to pass\n{self.tell()}"
            time.sleep(0.5)

    def pods(self, role: str) -> list[dict[str, Any]]:
        """Return the run's living pods of a role."""
        words = ("get", "pods", "-n", "lab", "-l", f"sam3ft.dev/role={role}", "-o", "json")
        found = json.loads(kubectl(self.plane, *words))["items"]
        running = [pod for pod in found if pod["status"].get("phase") == "Running"]
        return [pod for pod in running if not pod["metadata"].get("deletionTimestamp")]

    def tell(self) -> str:
        """Return what is to be known about a run that does not go on."""
        parts = [
            kubectl(self.plane, "describe", "sft", RUN, "-n", "lab"),
            kubectl(self.plane, "get", "pods", "-A", "-o", "wide"),
            kubectl(self.plane, "get", "events", "-n", "lab", "--sort-by=.lastTimestamp"),
        ]
        talking = [*self.pods("worker"), *self.pods("preflight"), *self.pods("coordinator")]
        parts += [kubectl(self.plane, "logs", "-n", "lab", pod["metadata"]["name"], "--tail=40") for pod in talking]
        return "\n".join(parts)[-20_000:]


def test_from_install_to_a_model_that_loads(site: Site, story: Story, tmp_path: Path) -> None:
    site.install()
    site.apply()
    applied_s = time.monotonic()
    site.wait("the check has passed", lambda run: (run.get("status") or {}).get("phase") in ("Starting", "Running"))
    site.wait("both workers train", lambda _: site.step() >= 1)
    story(f"from apply to the first step that is told: {time.monotonic() - applied_s:.1f} s")
    nodes = {pod["spec"]["nodeName"] for pod in site.pods("worker")}
    assert {"real-0", "real-1"} == nodes

    site.wait("a checkpoint is in the bucket", lambda run: (run.get("status") or {}).get("checkpoint"))
    kill_a_worker_process(site)
    evict_a_worker(site)
    site.wait("it is done", lambda run: (run.get("status") or {}).get("phase") == "Succeeded", within_s=900)

    status = site.run()["status"]
    story(f"goodput {status.get('goodput')}, restarts {status.get('restarts')}")
    folder = Path(shutil.copytree(site.nodes.folder / "s3" / "models" / RUN, tmp_path / "model"))
    load = f"Sam3Model.from_pretrained({str(folder)!r})"
    code = f"from transformers import Sam3Model; print({load}.num_parameters())"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert 0 == loaded.returncode, loaded.stderr[-3000:]
    story(f"the exported model loads in a fresh process: {int(loaded.stdout.split()[-1]):,} parameters")


def kill_a_worker_process(site: Site) -> None:
    """Kill the training process of one pod; it goes on in the same container."""
    pod = site.pods("worker")[1]
    before, restarts = site.step(), pod["status"]["containerStatuses"][0]["restartCount"]
    code = (
        "import os, signal\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
        "    if WORKER in words: os.kill(int(pid), signal.SIGKILL); print('killed', pid)\n"
    ).replace("WORKER", repr(WORKER))
    said = kubectl(site.plane, "exec", "-n", "lab", pod["metadata"]["name"], "--", "python", "-c", code)
    assert "killed" in said
    site.story(f"a worker's process is killed at step {before}: {said.strip()}")
    took_s = site.wait("it trains again", lambda _: site.step() > before)
    name = pod["metadata"]["name"]
    (again,) = [it for it in site.pods("worker") if it["metadata"]["name"] == name]
    assert restarts == again["status"]["containerStatuses"][0]["restartCount"], "in the same container"
    site.story(f"back in step after {took_s:.1f} s")


def evict_a_worker(site: Site) -> None:
    """Evict one pod through the API; it saves, is replaced, and nothing is lost."""
    pod = site.pods("worker")[0]
    name, uid, before = pod["metadata"]["name"], pod["metadata"]["uid"], site.step()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "lab"}}
    site.plane.post(f"/api/v1/namespaces/lab/pods/{name}/eviction", eviction)
    site.story(f"{name} is evicted at step {before}")
    took_s = site.wait(
        "both workers train again",
        lambda _: len([it for it in site.pods("worker") if it["metadata"]["uid"] != uid]) == 2 and site.step() > before,
    )
    site.story(f"replaced after {took_s:.1f} s")
