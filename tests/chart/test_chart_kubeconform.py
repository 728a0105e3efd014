"""Every object of the chart against the schemas of a real API server, by kubeconform."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from chart_bench import CHART, Helm
from control_plane import ControlPlane
from tools_here import need_binary

NOT_IN_A_PLAIN_CLUSTER = "ServiceMonitor,PodMonitor,PrometheusRule"
"""Their definitions are the Prometheus operator's, which is not installed here; another test looks at them."""


@pytest.fixture(scope="session")
def kubeconform() -> Path:
    """The program that was built from its module."""
    return need_binary("kubeconform")


@pytest.fixture(scope="session")
def schemas(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one strict schema for each kind that the API server knows."""
    folder = tmp_path_factory.mktemp("schemas")
    definitions = {
        name: strict(definition) for name, definition in json.loads(cluster.get("/openapi/v2"))["definitions"].items()
    }
    (folder / "definitions.json").write_text(json.dumps({"definitions": definitions}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            group = kind["group"].split(".")[0]
            file = "-".join(part for part in (kind["kind"].lower(), group, kind["version"]) if part) + ".json"
            (folder / file).write_text(json.dumps({"$ref": f"definitions.json#/definitions/{name}"}))
    return folder


def strict(node: Any) -> Any:
    """Return a schema that allows no field it does not name, in the words of JSON schema."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    plain = {key: strict(value) for key, value in node.items()}
    if "$ref" in plain and isinstance(plain["$ref"], str):
        return {"$ref": f"definitions.json{plain['$ref']}"}
    if plain.get("type") == "object" and "properties" in plain and "additionalProperties" not in plain:
        plain["additionalProperties"] = False
    return plain


def judged(program: Path, schemas: Path, text: str) -> subprocess.CompletedProcess[str]:
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    words = [str(program), "-summary", "-schema-location", location, "-skip", NOT_IN_A_PLAIN_CLUSTER, "-"]
    return subprocess.run(words, input=text, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("case", sorted(path.name for path in (CHART / "ci").glob("*.yaml")))
def test_every_object_is_as_the_api_server_describes_it(
    helm: Helm, kubeconform: Path, schemas: Path, case: str
) -> None:
    text = helm("template", "demo", str(CHART), "--kube-version", "1.35.4", "-f", str(CHART / "ci" / case)).stdout
    ended = judged(kubeconform, schemas, text)
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    assert ("Skipped: 3" if case == "full-values.yaml" else "Skipped: 0") in ended.stdout
    wrong = judged(kubeconform, schemas, text.replace("revisionHistoryLimit: 3", "revisonHistoryLimit: 3"))
    assert 1 == wrong.returncode, "a misspelt field is found"
