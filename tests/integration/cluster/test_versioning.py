"""The way from one version of the resource to the next without a webhook, walked on a real API server.

A copy of the generated definition under another group and kind is moved, so that the shared one stays as it is.
"""

import base64
import copy
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from control_plane import HOST, ControlPlane, kubectl
from spec_cases import SMALL, resource, with_value
from waiting import wait_until

from sam3ft_api.crd import custom_resource_definition
from sam3ft_api.spec import VERSION

pytestmark = pytest.mark.timeout(300)
GROUP, KIND, PLURAL, NEXT = "trial.sam3ft.dev", "TrialRun", "trialruns", "v1beta1"
NAME = f"{PLURAL}.{GROUP}"
STATUS = {"phase": "Running", "attempts": [{"n": 1}]}


def definition(*versions: str, stored: str) -> dict[str, Any]:
    """The generated definition, with equal schemas in all versions."""
    found = copy.deepcopy(custom_resource_definition())
    found["metadata"]["name"] = NAME
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower()}
    (version,) = found["spec"]["versions"]
    found["spec"] |= {"group": GROUP, "names": names, "conversion": {"strategy": "None"}}
    found["spec"]["versions"] = [copy.deepcopy(version) | {"name": it, "storage": it == stored} for it in versions]
    return found


class Trial:
    """Resources of the copy in one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace

    def define(self, document: dict[str, Any]) -> None:
        """Apply a definition, and wait until every version of it is served."""
        kubectl(self.plane, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))
        kubectl(self.plane, "wait", "--for=condition=Established", f"crd/{NAME}", "--timeout=60s")
        for version in document["spec"]["versions"]:
            self.wait_served(version["name"])

    def wait_served(self, version: str) -> None:
        wait_until(lambda: not refusal(self.plane, "get", "--raw", self.path(version)))

    def path(self, version: str) -> str:
        return f"/apis/{GROUP}/{version}/namespaces/{self.namespace}/{PLURAL}"

    def create(self, name: str, version: str, spec: dict[str, Any] = SMALL) -> None:
        document = resource(spec) | {"apiVersion": f"{GROUP}/{version}", "kind": KIND}
        document["metadata"] = {"name": name}
        kubectl(self.plane, "create", "-n", self.namespace, "--validate=strict", "-f", "-", stdin=json.dumps(document))

    def patch(self, name: str, version: str, change: dict[str, Any], *more: str) -> None:
        arguments = ["patch", "-n", self.namespace, f"{PLURAL}.{version}.{GROUP}", name, "--type=merge"]
        kubectl(self.plane, *arguments, "-p", json.dumps(change), *more)

    def names(self, version: str) -> list[str]:
        return kubectl(self.plane, "get", "-n", self.namespace, f"{PLURAL}.{version}.{GROUP}", "-o", "name").split()

    def get(self, name: str, version: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            kubectl(self.plane, "get", "-n", self.namespace, f"{PLURAL}.{version}.{GROUP}", name, "-o", "json")
        )
        return found

    def in_etcd(self, name: str) -> dict[str, Any]:
        """The object as it lies in the database, in the version in which it was written last."""
        key = base64.b64encode(f"/registry/{GROUP}/{PLURAL}/{self.namespace}/{name}".encode()).decode()
        url = f"http://{HOST}:{self.plane._etcd_port}/v3/kv/range"
        with urllib.request.urlopen(url, json.dumps({"key": key}).encode(), timeout=10) as answer:
            (entry,) = json.load(answer)["kvs"]
        found: dict[str, Any] = json.loads(base64.b64decode(entry["value"]))
        return found

    def stored_versions(self) -> list[str]:
        found: list[str] = json.loads(kubectl(self.plane, "get", "crd", NAME, "-o", "json"))["status"]["storedVersions"]
        return found

    def cut_stored_versions(self) -> None:
        told = json.dumps({"status": {"storedVersions": [NEXT]}})
        kubectl(self.plane, "patch", "crd", NAME, "--subresource=status", "--type=merge", "-p", told)


def refusal(plane: ControlPlane, *arguments: str, stdin: str = "") -> str:
    """What the API server says against a command; empty when it does as it is told."""
    try:
        kubectl(plane, *arguments, stdin=stdin)
    except subprocess.CalledProcessError as error:
        return str(error.stderr)
    return ""


@pytest.fixture
def trial(cluster: ControlPlane, namespace: str) -> Iterator[Trial]:
    """The copy; it goes with all its resources."""
    yield Trial(cluster, namespace)
    kubectl(cluster, "delete", "crd", NAME, "--ignore-not-found", "--timeout=60s")


def refused(trial: Trial, document: dict[str, Any]) -> str:
    """What the API server says against a definition."""
    return refusal(trial.plane, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))


def test_every_step_of_the_way_keeps_every_resource(trial: Trial) -> None:
    old, new = f"{GROUP}/{VERSION}", f"{GROUP}/{NEXT}"
    trial.define(definition(VERSION, stored=VERSION))
    trial.create("before", VERSION)
    trial.patch("before", VERSION, {"status": STATUS}, "--subresource=status")

    # Both are served, the old one is stored.
    trial.define(definition(VERSION, NEXT, stored=VERSION))
    trial.create("during", NEXT)
    assert [VERSION] == trial.stored_versions()
    assert (old, old) == (trial.in_etcd("before")["apiVersion"], trial.in_etcd("during")["apiVersion"])
    read = {version: trial.get("before", version) for version in (VERSION, NEXT)}
    assert new == read[NEXT]["apiVersion"]
    assert (read[VERSION]["spec"], STATUS) == (read[NEXT]["spec"], read[NEXT]["status"])

    # The new one is stored, and what lies there is not touched.
    trial.define(definition(VERSION, NEXT, stored=NEXT))
    trial.create("after", VERSION)
    assert [VERSION, NEXT] == trial.stored_versions()
    assert (old, new) == (trial.in_etcd("before")["apiVersion"], trial.in_etcd("after")["apiVersion"])
    told = refused(trial, definition(NEXT, stored=NEXT))
    assert "must remain in spec.versions until a storage migration ensures no data remains persisted" in told

    # Writing every resource as it is moves it; nobody who watches its generation sees a change.
    everything = kubectl(trial.plane, "get", "-A", f"{PLURAL}.{NEXT}.{GROUP}", "-o", "json")
    kubectl(trial.plane, "replace", "-f", "-", stdin=everything)
    assert [new] * 3 == [trial.in_etcd(name)["apiVersion"] for name in ("before", "during", "after")]
    moved = trial.get("before", NEXT)
    assert (read[NEXT]["spec"], STATUS, 1) == (moved["spec"], moved["status"], moved["metadata"]["generation"])
    assert [VERSION, NEXT] == trial.stored_versions()

    # Somebody has to say so; then the old one can go.
    trial.cut_stored_versions()
    trial.define(definition(NEXT, stored=NEXT))
    assert [NEXT] == trial.stored_versions()
    wait_until(lambda: "NotFound" in refusal(trial.plane, "get", "--raw", trial.path(VERSION)))
    assert [f"trialrun.{GROUP}/{name}" for name in ("after", "before", "during")] == trial.names(NEXT)


def test_a_renamed_field_is_absent_in_the_other_version_and_lost_with_the_next_write_there(trial: Trial) -> None:
    renamed = definition(VERSION, NEXT, stored=VERSION)
    schema = renamed["spec"]["versions"][1]["schema"]["openAPIV3Schema"]
    fields = schema["properties"]["spec"]["properties"]["training"]["properties"]
    fields["rate"] = fields.pop("learningRate")
    trial.define(renamed)
    trial.create("run", VERSION, with_value(SMALL, ("training", "learningRate"), 0.0002))

    # Not even the default of the new name appears, as defaults of what lies in the database are those of its version.
    assert not trial.get("run", NEXT)["spec"]["training"].keys() & {"rate", "learningRate"}
    assert 0.0002 == trial.get("run", VERSION)["spec"]["training"]["learningRate"]
    trial.patch("run", NEXT, {"spec": {"suspend": True}})
    assert "learningRate" not in trial.in_etcd("run")["spec"]["training"]
    # The user's number is gone, without a word, and the default stands in its place.
    assert 8e-5 == trial.get("run", VERSION)["spec"]["training"]["learningRate"]


def test_who_drops_the_old_version_too_early_cannot_list_until_it_is_served_again(trial: Trial) -> None:
    trial.define(definition(VERSION, stored=VERSION))
    trial.create("run", VERSION)
    trial.define(definition(VERSION, NEXT, stored=NEXT))
    trial.cut_stored_versions()
    assert "" == refused(trial, definition(NEXT, stored=NEXT))

    wait_until(lambda: "NotFound" in refusal(trial.plane, "get", "--raw", trial.path(VERSION)))
    for path in (trial.path(NEXT), f"{trial.path(NEXT)}/run"):
        assert f"convert CR from an invalid group/version: {GROUP}/{VERSION}" in refusal(
            trial.plane, "get", "--raw", path
        )
    trial.define(definition(VERSION, NEXT, stored=NEXT))
    assert "run" == trial.get("run", NEXT)["metadata"]["name"]
