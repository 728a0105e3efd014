"""skaffold.yaml against what skaffold's schema v4beta13 allows at the places that are used, and against the chart.

skaffold itself cannot be had from the registries that the tests may use; its schema is closed, so a misspelt word is an
error there as well.
"""

import re
from typing import Any

import pytest
import yaml
from chart_bench import CHART, Helm, of_kind

ROOT = CHART.parents[1]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
BUILD = {
    "tagPolicy": {"inputDigest": {}},
    "artifacts": [{"image": str, "docker": {"dockerfile": str}}],
    "local": {"push": bool, "useBuildkit": bool},
}
DEPLOY = {
    "helm": {
        "releases": [
            {
                "name": str,
                "chartPath": str,
                "namespace": str,
                "createNamespace": bool,
                "wait": bool,
                "setValueTemplates": dict,
            }
        ]
    }
}
ALLOWED = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "build": BUILD,
    "deploy": DEPLOY,
    "profiles": [{"name": str, "build": BUILD, "patches": [{"op": str, "path": str, "value": dict}]}],
}
"""The words of the schema that are used, with their types."""


def problems(value: Any, allowed: Any, path: str = "") -> list[str]:
    """Return what is not allowed, by path."""
    if isinstance(allowed, type):
        return [] if isinstance(value, allowed) else [f"{path}: {value!r} is no {allowed.__name__}"]
    if isinstance(allowed, list):
        return [it for number, item in enumerate(value) for it in problems(item, allowed[0], f"{path}/{number}")]
    found = [f"{path}/{name} is unknown" for name in value if name not in allowed]
    for name, rule in allowed.items():
        if name in value:
            found += problems(value[name], rule, f"{path}/{name}")
    return found


def test_every_word_is_one_of_the_schema() -> None:
    assert [] == problems(CONFIG, ALLOWED)
    assert ("skaffold/v4beta13", "Config") == (CONFIG["apiVersion"], CONFIG["kind"])
    assert ["/build/artifacs is unknown"] == problems({"build": {"artifacs": []}}, ALLOWED)


def test_there_is_what_it_names() -> None:
    for artifact in CONFIG["build"]["artifacts"]:
        assert (ROOT / artifact["docker"]["dockerfile"]).is_file()
    (release,) = CONFIG["deploy"]["helm"]["releases"]
    assert CHART == ROOT / release["chartPath"]
    assert {"local", "ci"} == {profile["name"] for profile in CONFIG["profiles"]}


@pytest.mark.parametrize("digest", ["", "sha256:" + "a" * 64])
def test_the_chart_takes_the_images_that_were_built(helm: Helm, digest: str) -> None:
    (release,) = CONFIG["deploy"]["helm"]["releases"]
    names = {re.sub(r"[/.-]", "_", it["image"]): it["image"] for it in CONFIG["build"]["artifacts"]}
    known = {
        f"{{{{.{kind}_{name}}}}}": told
        for name, image in names.items()
        for kind, told in (("IMAGE_REPO", image), ("IMAGE_TAG", "abc123"), ("IMAGE_DIGEST", digest))
    }
    given = {value: known[template] for value, template in release["setValueTemplates"].items()}
    words = [word for value, told in given.items() for word in ("--set-string", f"{value}={told}")]
    (deployment,) = of_kind(helm.render(*words), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    mark = f"@{digest}" if digest else ":abc123"
    assert f"ghcr.io/sam3ft/operator{mark}" == container["image"]
    assert f"--trainer-image=ghcr.io/sam3ft/trainer{mark}" in container["args"]


def test_a_patch_has_a_place() -> None:
    for profile in CONFIG["profiles"]:
        for patch in profile.get("patches", ()):
            parent: Any = CONFIG
            for part in patch["path"].strip("/").split("/")[:-1]:
                parent = parent[int(part)] if isinstance(parent, list) else parent[part]
            assert isinstance(parent, dict)
