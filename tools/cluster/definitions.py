"""The project's own resource on a control plane."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from control_plane import START_S, ControlPlane, kubectl

CRDS = Path(__file__).resolve().parents[2] / "crds"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def apply_crds(plane: ControlPlane, folder: Path = CRDS) -> None:
    """Apply every definition of a folder, and wait until the API server serves and explains its resources.

    Raises:
        subprocess.CalledProcessError: one is refused; `stderr` says why.
        RuntimeError: one is not explained within a minute.
    """
    for path in sorted(folder.glob("*.yaml")):
        kubectl(plane, "apply", "--server-side", "-f", str(path))
    # `kubectl wait` gives up on a definition that has no conditions yet.
    _wait_until(lambda: _all_are_established(plane), "a definition is not Established")
    # Established says that it is served. `kubectl explain` reads a document that is put together a little later.
    for definition in _definitions(plane):
        group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
        _wait_until(partial(_is_explained, plane, group, kind), f"{kind} of {group} is not explained")


def _wait_until(condition: Callable[[], bool], trouble: str) -> None:
    give_up_at = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{trouble} within {START_S:g} s")
        time.sleep(0.1)


def _definitions(plane: ControlPlane) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(plane.get(DEFINITIONS))["items"]
    return found


def _all_are_established(plane: ControlPlane) -> bool:
    told = [definition.get("status", {}).get("conditions") or [] for definition in _definitions(plane)]
    return all(any((it["type"], it["status"]) == ("Established", "True") for it in conditions) for conditions in told)


def _is_explained(plane: ControlPlane, group: str, kind: str) -> bool:
    return f'"group":"{group}","kind":"{kind}"' in _documents(plane, group)


def _documents(plane: ControlPlane, group: str) -> str:
    """Return what the API server says about the versions of a group, without spaces; empty while there is nothing."""
    paths = json.loads(plane.get("/openapi/v3"))["paths"]
    found = [
        plane.get(about["serverRelativeURL"]) for path, about in paths.items() if path.startswith(f"apis/{group}/")
    ]
    return "".join(found).replace(" ", "").replace("\n", "")
