"""The project's own resource on a control plane."""

import json
import time
from pathlib import Path

from control_plane import START_S, ControlPlane, kubectl

CRDS = Path(__file__).resolve().parents[2] / "crds"


def apply_crds(plane: ControlPlane, folder: Path = CRDS) -> None:
    """Apply every definition of a folder, and wait until the API server serves and explains its resources.

    Raises:
        subprocess.CalledProcessError: one is refused; `stderr` says why.
        RuntimeError: one is not explained within a minute.
    """
    for path in sorted(folder.glob("*.yaml")):
        kubectl(plane, "apply", "--server-side", "-f", str(path))
    kubectl(plane, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    # Established says that it is served. `kubectl explain` reads a document that is put together a little later.
    names = kubectl(plane, "get", "crd", "-o", "jsonpath={range .items[*]}{.spec.group} {.spec.names.kind}\n{end}")
    for group, kind in (line.split() for line in names.splitlines()):
        _wait_until_explained(plane, group, kind)


def _wait_until_explained(plane: ControlPlane, group: str, kind: str) -> None:
    give_up_at = time.monotonic() + START_S
    while f'"group":"{group}","kind":"{kind}"' not in _documents(plane, group):
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{kind} of {group} is not explained within {START_S:g} s of its definition")
        time.sleep(0.1)


def _documents(plane: ControlPlane, group: str) -> str:
    """Return what the API server says about the versions of a group, without spaces; empty while there is nothing."""
    paths = json.loads(plane.get("/openapi/v3"))["paths"]
    found = [
        plane.get(about["serverRelativeURL"]) for path, about in paths.items() if path.startswith(f"apis/{group}/")
    ]
    return "".join(found).replace(" ", "").replace("\n", "")
