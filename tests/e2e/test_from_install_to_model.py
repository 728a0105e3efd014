"""From `helm install` to a model that loads: real kubelets, real images, a real S3 server; one worker's process is
killed on the way, and one worker is evicted.

Times of every part are printed: read the output as a story. `make e2e`, and last of `make test`.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from beginning import begin
from control_plane import find_program, kubectl
from e2e_site import NAMESPACE, OPERATORS, Site, Story, phase_of, restricted_pod
from oci_image import PROBE
from policy_watch import num_dropped
from striking import Struck

from sam3ft_api.exit_codes import ExitCode

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(2400)]
RUN = "blood"
STEPS = 140
"""So many that training goes on while pods are struck, also on a fast machine."""
EVERY = 10
"""Steps between checkpoints, as `Site.apply` has it."""
WORKER = "sam3ft_trainer.run.worker"


def test_from_install_to_a_model_that_loads(installed: Site, story: Story, tmp_path: Path) -> None:
    site = installed
    begin(site, RUN, steps=STEPS, workers={"warmSpares": True})
    assert 2 == len({pod["spec"]["nodeName"] for pod in site.pods(RUN, "worker")})
    site.wait(RUN, "a checkpoint is in the bucket", lambda run: (run.get("status") or {}).get("checkpoint"))
    check_that_pods_may_do_little(site)
    check_that_a_stranger_reaches_nobody(site)

    struck = Struck(site, RUN)
    kill_a_worker_process(struck)
    evict_a_worker(struck)
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
    tried = [(it, target) for it in (NAMESPACE, "elsewhere") for target in targets]
    with ThreadPoolExecutor(len(tried)) as pool:  # what is dropped takes its time
        answers = list(pool.map(lambda where: connects(site, *where), tried))
    assert [] == [where for where, is_reached in zip(tried, answers, strict=True) if is_reached]
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
    return restricted_pod("stranger", PROBE)


def connects(site: Site, namespace: str, target: str) -> bool:
    """Tell whether the stranger gets a connection."""
    try:
        kubectl(site.plane, "exec", "-n", namespace, "stranger", "--", "/probe", "connect", target)
    except subprocess.CalledProcessError:
        return False
    return True


def kill_a_worker_process(struck: Struck) -> None:
    """Kill the training process of one pod; it goes on in the same container."""
    pod = struck.workers()[1]
    name, restarts = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["restartCount"]
    code = (
        "import os, signal\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
        "    # One that waits to be a worker has the same words, and a pipe for its input.\n"
        "    if WORKER in words and os.readlink(f'/proc/{pid}/fd/0') == os.devnull:\n"
        "        os.kill(int(pid), signal.SIGKILL); print('killed', pid)\n"
    ).replace("WORKER", repr(WORKER))

    def kill() -> None:
        assert "killed" in struck.site.in_lab("exec", name, "--", "python", "-c", code)

    assert struck.strike("a worker's process killed", kill).lost_steps <= EVERY
    (again,) = [it for it in struck.workers() if it["metadata"]["name"] == name]
    assert restarts == again["status"]["containerStatuses"][0]["restartCount"], "in the same container"


def evict_a_worker(struck: Struck) -> None:
    """Evict one pod through the API; it saves, ends with 20, is replaced, and nothing is lost."""
    site, pod = struck.site, struck.workers()[0]
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}

    def evict() -> float:
        site.plane.post(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", eviction)
        return struck.replaced(uid)

    with exit_codes(site, name) as codes:
        assert struck.strike("a worker evicted", evict).lost_steps == 0
    assert {ExitCode.INTERRUPTED} == set(codes)
    site.wait(RUN, "both workers train again", lambda run: phase_of(run) == "Running" and len(struck.workers()) == 2)


@contextmanager
def exit_codes(site: Site, pod: str) -> Iterator[list[int]]:
    """Collect the exit codes that a pod's container is seen to have, until the pod is gone."""
    path = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}{'\\n'}"
    command = [str(find_program("kubernetes", "kubectl")), "--kubeconfig", str(site.plane.admin_kubeconfig)]
    command += ["get", "pod", pod, "-n", NAMESPACE, "--watch", "-o", path]
    codes: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        try:
            yield codes
        finally:
            watching.terminate()
            assert watching.stdout is not None
            codes += [int(line) for line in watching.stdout.read().split()]
