"""From `helm install` to a model that loads: real kubelets, real images, a real S3 server; one worker's process is
killed on the way, and one worker is evicted.

Times of every part are printed: read the output as a story.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from beginning import parts_of_beginning, seconds_of
from control_plane import kubectl
from e2e_site import NAMESPACE, OPERATORS, Run, Site, Story, phase_of, step_of
from oci_image import PROBE
from policy_watch import num_dropped

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]
"""It takes the machine's networks and cgroups, and gigabytes for images: `make e2e`, `make soak`."""
RUN = "blood"
STEPS = 120
WORKER = "sam3ft_trainer.run.worker"


def test_from_install_to_a_model_that_loads(installed: Site, story: Story, tmp_path: Path) -> None:
    site = installed
    site.apply(RUN, steps=STEPS)
    applied_s = time.time()
    site.wait(RUN, "the check has passed", lambda run: phase_of(run) in ("Starting", "Running"))
    site.wait(RUN, "both workers train", lambda run: step_of(run) >= 1)
    story(f"from apply to the first step that is told: {time.time() - applied_s:.1f} s")
    parts = beginning_of(site, applied_s)
    story("the first step was done after " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items()))
    assert 2 == len({pod["spec"]["nodeName"] for pod in site.pods(RUN, "worker")})
    site.wait(RUN, "a checkpoint is in the bucket", lambda run: (run.get("status") or {}).get("checkpoint"))
    check_that_pods_may_do_little(site)
    check_that_a_stranger_reaches_nobody(site)

    kill_a_worker_process(site)
    evict_a_worker(site)
    site.wait(RUN, "it is done", lambda run: phase_of(run) == "Succeeded", within_s=900)

    status = site.run(RUN)["status"]
    story(f"goodput {status.get('goodput')}, restarts {status.get('restarts')}")
    assert 0 <= status["best"]["value"] <= 1
    folder = Path(shutil.copytree(site.nodes.folder / "s3" / "models" / RUN, tmp_path / "model"))
    load = f"Sam3Model.from_pretrained({str(folder)!r})"
    code = f"from transformers import Sam3Model; print({load}.num_parameters())"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert 0 == loaded.returncode, loaded.stderr[-3000:]
    story(f"the exported model loads in a fresh process: {int(loaded.stdout.split()[-1]):,} parameters")


def test_helm_test_reaches_the_operator(installed: Site, story: Story) -> None:
    said = installed.helm("test", "sam3ft", "-n", OPERATORS, "--timeout", "120s").stdout
    story("helm test has passed")

    assert "Succeeded" in said


def beginning_of(site: Site, applied_s: float) -> dict[str, float]:
    """Return the seconds until the newest step, which is the first one or one soon after it, by parts."""
    stepped_s = seconds_of(site.run(RUN)["status"]["progress"]["lastStepTime"])
    selector = "sam3ft.dev/role=preflight,sam3ft.dev/run=" + RUN
    (check,) = json.loads(site.in_lab("get", "pods", "-l", selector, "-o", "json"))["items"]
    return parts_of_beginning(check, site.pods(RUN, "worker"), applied_s=applied_s, stepped_s=stepped_s)


def check_that_pods_may_do_little(site: Site) -> None:
    """See that every pod of run and operator has a read-only root, and those of the run no token."""
    operators = json.loads(kubectl(site.plane, "get", "pods", "-n", OPERATORS, "-o", "json"))["items"]
    of_run = [pod for role in ("worker", "coordinator") for pod in site.pods(RUN, role)]
    assert (2, 3) == (len(operators), len(of_run))
    for pod in [*operators, *of_run]:
        assert all(it["securityContext"]["readOnlyRootFilesystem"] for it in pod["spec"]["containers"])
    for pod in of_run:
        assert not pod["spec"]["automountServiceAccountToken"]
        assert not [it for it in pod["spec"].get("volumes", []) if "projected" in it]
    site.story("every pod has a read-only root; workers and coordinator have no token")


def check_that_a_stranger_reaches_nobody(site: Site) -> None:
    """Connect to every port at which a pod of the run listens, from pods of its own and of another namespace."""
    site.plane.post("/api/v1/namespaces", {"metadata": {"name": "elsewhere"}})
    pods = [pod for role in ("coordinator", "worker") for pod in site.pods(RUN, role)]
    targets = [f"{pod['status']['podIP']}:{port}" for pod in pods for port in listening(site, pod)]
    assert len(pods) < len(targets)
    for namespace in (NAMESPACE, "elsewhere"):
        kubectl(site.plane, "create", "-n", namespace, "-f", "-", stdin=json.dumps(stranger()))
        kubectl(site.plane, "wait", "-n", namespace, "--for=condition=Ready", "pod/stranger", "--timeout=60s")
    dropped = sum(num_dropped(node) for node in site.nodes.nodes)
    reached = [(it, target) for it in (NAMESPACE, "elsewhere") for target in targets if connects(site, it, target)]
    assert [] == reached
    assert dropped < sum(num_dropped(node) for node in site.nodes.nodes), "the policies have dropped it, nothing else"
    for namespace in (NAMESPACE, "elsewhere"):
        kubectl(site.plane, "delete", "pod", "stranger", "-n", namespace, "--wait=false")
    site.story(f"a stranger's pod connects to none of {len(targets)} ports of coordinator and workers")


def listening(site: Site, pod: dict[str, Any]) -> list[int]:
    """Return the ports at which a pod listens on more than loopback."""
    code = (
        "for line in open('/proc/net/tcp').read().splitlines()[1:] + open('/proc/net/tcp6').read().splitlines()[1:]:\n"
        "    _, local, _, state = line.split()[:4]\n"
        "    address, port = local.split(':')\n"
        "    if state == '0A' and not address.endswith('0100007F'): print(int(port, 16))\n"
    )
    said = site.in_lab("exec", pod["metadata"]["name"], "--", "python", "-c", code)
    return sorted({int(line) for line in said.split()})


def stranger() -> dict[str, Any]:
    """Return a pod that belongs to nobody."""
    safe = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [{"name": "main", "image": PROBE, "securityContext": safe}], "securityContext": security}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"}, "spec": spec}


def connects(site: Site, namespace: str, target: str) -> bool:
    """Tell whether the stranger gets a connection."""
    try:
        kubectl(site.plane, "exec", "-n", namespace, "stranger", "--", "/probe", "connect", target)
    except subprocess.CalledProcessError:
        return False
    return True


def kill_a_worker_process(site: Site) -> None:
    """Kill the training process of one pod; it goes on in the same container."""
    pod = site.pods(RUN, "worker")[1]
    before, restarts = site.step(RUN), pod["status"]["containerStatuses"][0]["restartCount"]
    code = (
        "import os, signal\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
        "    if WORKER in words: os.kill(int(pid), signal.SIGKILL); print('killed', pid)\n"
    ).replace("WORKER", repr(WORKER))
    said = site.in_lab("exec", pod["metadata"]["name"], "--", "python", "-c", code)
    assert "killed" in said
    site.story(f"a worker's process is killed at step {before}: {said.strip()}")
    took_s = site.wait(RUN, "it trains again", lambda run: step_of(run) > before)
    name = pod["metadata"]["name"]
    (again,) = [it for it in site.pods(RUN, "worker") if it["metadata"]["name"] == name]
    assert restarts == again["status"]["containerStatuses"][0]["restartCount"], "in the same container"
    site.story(f"back in step after {took_s:.1f} s")


def evict_a_worker(site: Site) -> None:
    """Evict one pod through the API; it saves, is replaced, and nothing is lost."""
    pod = site.pods(RUN, "worker")[0]
    name, uid, before = pod["metadata"]["name"], pod["metadata"]["uid"], site.step(RUN)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
    site.plane.post(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", eviction)
    site.story(f"{name} is evicted at step {before}")

    def trains_again(run: Run) -> bool:
        others = [it for it in site.pods(RUN, "worker") if it["metadata"]["uid"] != uid]
        return len(others) == 2 and step_of(run) > before

    took_s = site.wait(RUN, "both workers train again", trains_again)
    site.story(f"replaced after {took_s:.1f} s")
