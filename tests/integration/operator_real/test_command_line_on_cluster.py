"""`sam3ft` and `kubectl sam3ft` on a real API server, with the rights of a user, beside the real operator."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from control_plane import kubectl
from coordinator_site import FakeCoordinator, progress, says
from operator_site import OperatorProcess, Site
from s3_server import S3Server
from waiting import wait_for

from sam3ft_api import names
from sam3ft_api.worker import ENV_STORAGE_PROFILES
from sam3ft_launch.kubernetes import kinds
from sam3ft_launch.kubernetes.rights import user_roles
from sam3ft_operator.decide.preflight import CLOCKS_S

pytestmark = pytest.mark.timeout(240)
YAML = """\
apiVersion: sam3ft.dev/v1alpha1
kind: SAM3FineTune
metadata: {name: blood}
spec:
  model: {uri: preset:tiny}
  data: {uri: s3://datasets/blood}
  training: {maxSteps: 10, globalBatchSize: 8}
  workers: {nodes: 2, maxNodes: 4}
  checkpoint: {uri: s3://runs/blood}
"""
PAGE = Path(__file__).parents[3] / "docs/cluster.md"
BIN = Path(sys.executable).parent


class Terminal:
    """A user with an account of the namespace, bound to the role for editors, and a file."""

    def __init__(self, site: Site, *, role: str = "sam3ft-editor") -> None:
        """Make the account."""
        self.site, name = site, f"user-{role}"
        for document in user_roles():
            site.make(document)
        place = {"name": name, "namespace": site.namespace}
        site.make({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place})
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": place,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", **place}],
        }
        site.make(binding)
        self.user = f"system:serviceaccount:{site.namespace}:{name}"
        self.environment = {"KUBECONFIG": str(site.plane.kubeconfig_of(site.namespace, name)), "COLUMNS": "200"}
        (site.folder / "blood.yaml").write_text(YAML)

    def start(self, *words: str, program: str = "kubectl-sam3ft") -> "subprocess.Popen[str]":
        """Start a command and return at once."""
        return subprocess.Popen(
            [str(BIN / program), *words],
            cwd=self.site.folder,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, code: int = 0, program: str = "kubectl-sam3ft") -> str:
        """Run a command to its end and return what it printed; it must end with the code."""
        process = self.start(*words, program=program)
        out, errors = process.communicate(timeout=90)
        assert code == process.returncode, (words, out, errors)
        assert "Traceback" not in errors
        return out if code == 0 else errors

    def both(self, *words: str) -> tuple[str, str]:
        """Run a command that succeeds, and return what it printed for machines and for people."""
        process = self.start(*words)
        out, errors = process.communicate(timeout=90)
        assert 0 == process.returncode, errors
        return out, errors

    def json(self, *words: str) -> list[dict[str, Any]]:
        """Return the JSON lines that a command prints."""
        return [json.loads(line) for line in self(*words, "-o", "json").splitlines()]


@pytest.fixture
def user(site: Site) -> Terminal:
    """A user who may edit runs."""
    return Terminal(site)


def begin(user: Terminal) -> tuple[str, list[dict[str, Any]]]:
    """Apply the file, let its check pass, and return the uid and the running workers."""
    [applied] = user.json("run", "blood.yaml", "--detach")
    uid = applied["uid"]
    user.site.pass_check(uid)
    return uid, user.site.wait_for_pods(uid, role="worker", count=2)


def test_a_run_is_started_shown_followed_and_ends(user: Terminal, operator: OperatorProcess) -> None:
    uid, workers = begin(user)
    site = user.site
    following = user.start("run", "blood.yaml")
    [coordinator] = site.wait_for_pods(uid, role="coordinator", count=1)
    with FakeCoordinator(says(progress())) as fake:
        fake.stands_for(site, coordinator)
        site.wait_for_phase("blood", "Running")
        text = user("status", "blood")
        [document] = user.json("status", "blood")
        table = user("status")
        why = user("explain")
    site.finish("blood", workers)
    out, errors = following.communicate(timeout=60)

    assert "step 1200/4000" in text
    assert "s3://runs/blood" in text
    assert ("Running", 1200, 4000) == (
        document["phase"],
        document["progress"]["step"],
        document["progress"]["total_steps"],
    )
    assert ["NAME", "PHASE"] == table.split()[:2]
    assert ["blood", "Running", "1200/4000", "1h20m"] == table.splitlines()[1].split()[:4]
    assert why.startswith("blood is Running")
    assert 0 == following.returncode, errors
    assert "blood is Succeeded" in out
    assert "step 1200/4000" in out
    assert [] == [call for call in site.plane.calls(user=user.user) if call.code in (401, 403)]


def test_scale_suspend_resume_and_cancel_do_what_they_say(user: Terminal, operator: OperatorProcess) -> None:
    uid, _ = begin(user)
    site = user.site
    user("scale", "blood", "--nodes", "3")
    site.wait_for_pods(uid, role="worker", count=3)
    beyond = user("scale", "blood", "--nodes", "9", code=10)
    suspended = user("suspend", "blood")
    why = user("explain", "blood")
    resumed = user("resume", "blood")
    site.wait_for_pods(uid, role="worker", count=3)
    cancelled = user("cancel", "blood")

    assert "maxNodes" in beyond
    assert "blood is suspended" in suspended
    assert why.startswith("blood is Suspended")
    assert "sam3ft resume blood" in why
    assert "blood goes on" in resumed
    assert "blood is deleted" in cancelled
    assert site.get(kinds.FINETUNE, "blood") is None
    site.wait_until_empty(uid)
    assert "there is no run" in user("status")
    assert "no run 'blood'" in user("status", "blood", code=10)


def test_a_failed_run_is_explained_and_tried_again(user: Terminal, operator: OperatorProcess) -> None:
    uid, workers = begin(user)
    site = user.site
    words = "s3://runs/blood belongs to run other of namespace lab"
    word = {"code": 14, "reason": "CheckpointIncompatible", "message": words, "rank": 1, "node": "node-0"}
    too_early = user("retry", "blood", code=10)
    following = user.start("run", "blood.yaml", "-o", "json")
    site.end_pod(workers[0], code=14, message=json.dumps(word))
    site.wait_for_phase("blood", "Failed")
    out, _ = following.communicate(timeout=60)
    why = user("explain", "blood")
    events = user("events", "blood")
    [old] = site.children(kinds.JOB, uid, role="preflight")
    wait_for("the check is older than clocks may differ", lambda: _age_s(old) > CLOCKS_S + 2)
    retried = user("retry", "blood")
    wait_for(
        "the check is made again",
        lambda: [job for job in _jobs(site, uid, "preflight") if job != old["metadata"]["uid"]],
    )
    site.pass_check(uid)
    wait_for("a second attempt", lambda: site.get(kinds.JOB, names.worker_job_name("blood", 2)))

    assert "only a run that has Failed can be tried again" in too_early
    assert 14 == following.returncode
    assert ("ended", 14, "CheckpointIncompatible") == tuple(
        json.loads(out.splitlines()[-1])[key] for key in ("event", "code", "reason")
    )
    assert words in why
    assert "sam3ft retry blood" in why
    assert "CheckpointIncompatible" in events
    assert "blood is tried again (retry 1)" in retried


def _age_s(made: dict[str, Any]) -> float:
    return time.time() - datetime.fromisoformat(made["metadata"]["creationTimestamp"]).timestamp()


def _jobs(site: Site, uid: str, role: str) -> list[str]:
    return [job["metadata"]["uid"] for job in site.children(kinds.JOB, uid, role=role)]


def test_logs_come_from_the_pods_and_outlive_them(user: Terminal, operator: OperatorProcess) -> None:
    site = user.site
    site.plane.pod_log.write_text("".join(line_of(f"line {number}") for number in range(100)))
    uid, workers = begin(user)
    shown = user("logs", "blood", "--lines", "3").splitlines()
    following = user.start("logs", "-f", "blood", "--tail", "1")
    assert following.stdout is not None
    first = following.stdout.readline().strip()
    with site.plane.pod_log.open("a") as log:
        log.write(line_of("one more"))
    second = following.stdout.readline().strip()
    following.terminate()
    following.communicate(timeout=10)
    word = {"code": 11, "reason": "InvalidDataset", "message": "train has no images", "rank": 0, "node": "node-0"}
    site.end_pod(workers[0], code=11, message=json.dumps(word))
    site.wait_for_phase("blood", "Failed")
    kubectl(site.plane, "-n", site.namespace, "delete", "pods", "--all", "--force", "--ignore-not-found")
    wait_for("no pod is left", lambda: not site.children(kinds.POD, uid))
    kept = user("logs", "blood")

    assert ["line 97", "line 98", "line 99"] == shown
    assert ("line 99", "one more") == (first, second)
    assert "train has no images" in kept


def test_logs_beside_the_checkpoints_are_read_with_the_users_own_credentials(
    user: Terminal, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = s3_server.create_bucket(f"runs-{uuid.uuid4().hex[:8]}")
    kept = tmp_path / "kept/logs"
    kept.mkdir(parents=True)
    (kept / "a2-rank3-20261125T081500123-15.log").write_text("step 7: loss is nan\n")
    s3_server.upload_folder(bucket, "blood", kept.parent)
    user("run", "blood.yaml", "--detach", "--set", f"checkpoint.uri=s3://{bucket}/blood")
    without, said = user.both("logs", "blood")
    user.environment |= s3_server.environment()
    user.environment[ENV_STORAGE_PROFILES] = str(s3_server.profiles_file(tmp_path / "profiles.yaml"))
    lines, where = user.both("logs", "blood")

    assert "" == without
    assert "blood has said nothing yet; it is Pending" in said
    assert ["--- attempt 2, rank 3, ended with 15", "step 7: loss is nan"] == lines.splitlines()
    assert f"kept beside its checkpoints in s3://{bucket}/blood" in where


def test_the_report_is_made_from_beside_the_checkpoints(user: Terminal, s3_server: S3Server, tmp_path: Path) -> None:
    bucket = s3_server.create_bucket(f"runs-{uuid.uuid4().hex[:8]}")
    events = tmp_path / "kept/report/000001"
    events.mkdir(parents=True)
    line = '{"event": "started", "ts": 1.0, "run": "blood", "attempt": 1, "total_steps": 7}\n'
    (events / f"events-{0:012d}-{len(line):012d}.jsonl").write_text(line)
    user("run", "blood.yaml", "--detach", "--set", f"checkpoint.uri=s3://{bucket}/blood")
    user.environment |= s3_server.environment()
    user.environment[ENV_STORAGE_PROFILES] = str(s3_server.profiles_file(tmp_path / "profiles.yaml"))
    nothing = user("report", "blood", code=10)
    s3_server.upload_folder(bucket, "blood", tmp_path / "kept")
    said = user("report", "blood", "--to", str(tmp_path / "blood.html"))

    assert f"s3://{bucket}/blood keeps nothing to report" in nothing
    assert str(tmp_path / "blood.html") == said.strip()
    assert "<html" in (tmp_path / "blood.html").read_text()


def line_of(text: str) -> str:
    """Return a line as a container runtime writes it."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.000000000Z stdout F {text}\n"


def test_without_an_operator_and_without_rights_the_user_is_told(site: Site, user: Terminal) -> None:
    viewer = Terminal(site, role="sam3ft-viewer")
    user("run", "blood.yaml", "--detach")
    new = user("explain", "blood")
    refused = viewer("suspend", "blood", "--no-wait", code=10)
    elsewhere = viewer("status", "-n", "default", code=10)
    twice = user("run", "blood.yaml", "--detach", "--set", "training.maxSteps=11")

    assert "the operator has not looked at it yet" in new
    assert "ask the cluster's administrator for this right" in refused
    assert "cannot list resource" in elsewhere
    assert "applied" in twice
    assert 11 == site.resource("blood")["spec"]["training"]["maxSteps"]


def test_what_another_tool_has_written_is_not_overwritten(site: Site, user: Terminal) -> None:
    site.apply("blood", training={"maxSteps": 9, "globalBatchSize": 8})

    message = user("run", "blood.yaml", "--detach", code=10)

    assert "conflict" in message.lower()
    assert ".spec.training" in message


def test_the_file_takes_back_what_the_command_itself_has_changed(site: Site, user: Terminal) -> None:
    user("run", "blood.yaml", "--detach")
    user("scale", "blood", "--nodes", "3")
    user("suspend", "blood", "--no-wait")
    file = user.site.folder / "blood.yaml"
    file.write_text(file.read_text() + "  suspend: false\n")

    user("run", "blood.yaml", "--detach")
    spec = site.resource("blood")["spec"]
    assert (2, False) == (spec["workers"]["nodes"], spec["suspend"])


def test_the_example_of_the_page_works_as_it_stands(user: Terminal, operator: OperatorProcess) -> None:
    lines = [line.split() for line in PAGE.read_text().splitlines() if line.startswith("    kubectl sam3ft ")]
    site = user.site

    def played(words: list[str]) -> str:
        said = user(*words[2:])
        if words[2] == "run":
            uid = site.resource("blood")["metadata"]["uid"]
            site.pass_check(uid)
            site.wait_for_pods(uid, role="worker", count=2)
        return said

    said = {words[2]: played(words) for words in lines}

    assert ["run", "status", "scale", "logs", "events", "suspend", "explain", "resume", "cancel"] == list(said)
    assert "to do: sam3ft resume blood" in said["explain"]
    assert "blood is deleted" in said["cancel"]


@pytest.mark.parametrize("name", ["unknown", "away"])
def test_a_cluster_that_does_not_answer_or_does_not_know_us_is_told_in_one_line(
    name: str, user: Terminal, new_kubeconfig: Callable[[str], Path]
) -> None:
    user.environment["KUBECONFIG"] = str(new_kubeconfig(name))

    message = user("status", code=10 if name == "unknown" else 22)

    assert {"unknown": "does not know these credentials", "away": "the API server is not well"}[name] in message


@pytest.fixture
def new_kubeconfig(site: Site, user: Terminal) -> Callable[[str], Path]:
    """Makes kubeconfigs that lead nowhere, or with a token that nobody knows."""

    def make(name: str) -> Path:
        document = json.loads(Path(user.environment["KUBECONFIG"]).read_text())
        if name == "away":
            document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
        else:
            document["users"][0]["user"] = {"token": "nobody"}
        path = site.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps(document))
        return path

    return make


def test_the_plain_command_needs_to_be_told_that_a_cluster_is_meant(user: Terminal) -> None:
    local = user("status", program="sam3ft", code=10)
    there = user("status", "--backend", "kubernetes", program="sam3ft")
    implied = user("status", "-n", user.site.namespace, program="sam3ft")
    contradiction = user("status", "--backend", "local", "-n", "lab", code=10)

    assert "start one with `sam3ft run FILE`" in local
    assert "there is no run in namespace" in there
    assert there == implied
    assert "--namespace is for --backend kubernetes" in contradiction
