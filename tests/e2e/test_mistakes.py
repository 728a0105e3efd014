"""What people get wrong, on real nodes: the status tells it within a minute, and `sam3ft explain` names the fix."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from e2e_site import DATA, NAMESPACE, Run, Site, phase_of, step_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]
TOLD_WITHIN_S = 60
IMAGES = 8
"""Of a data set that is checked in a moment."""


@pytest.fixture(scope="module")
def few(installed: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The cluster with a small data set, and one whose image is missing."""
    for name, missing in (("few", 0), ("broken", 1)):
        folder = small_data(tmp_path_factory.mktemp(name))
        for path in sorted(folder.rglob("*.jpg"))[:missing]:
            path.unlink()
        installed.upload(folder, name)
    return installed


def small_data(folder: Path) -> Path:
    """Write the first images of the example as a data set of its own."""
    document = json.loads((DATA / "train" / "_annotations.coco.json").read_text())
    document["images"] = document["images"][:IMAGES]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [item for item in document["annotations"] if item["image_id"] in kept]
    (folder / "train").mkdir()
    for image in document["images"]:
        shutil.copy(DATA / "train" / image["file_name"], folder / "train")
    (folder / "train" / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


def told(site: Site, name: str, condition: Callable[[Run], Any], **sections: dict[str, Any]) -> Run:
    """Apply a run with a mistake; return it once it says so, within a minute."""
    data = {"uri": "s3://datasets/few", "phrases": {"rbc": ["red blood cell"]}}
    site.apply(name, steps=1000, **{"data": data, **sections})
    site.wait(name, f"{name} is told", condition, within_s=TOLD_WITHIN_S, may_fail=True)
    return site.run(name)


def is_degraded(run: Run) -> bool:
    """Tell whether a run says what it waits for."""
    return condition_of(run, "Degraded").get("status") == "True"


def has_failed(run: Run) -> bool:
    """Tell whether a run has failed."""
    return phase_of(run) == "Failed"


def condition_of(run: Run, kind: str) -> dict[str, Any]:
    """Return one condition of a run; empty when it is not there."""
    conditions = (run.get("status") or {}).get("conditions") or []
    return next((it for it in conditions if it["type"] == kind), {})


def status_and_reason(run: Run, kind: str) -> tuple[str, str]:
    """Return both of a condition."""
    found = condition_of(run, kind)
    return found["status"], found["reason"]


def explained(site: Site, name: str) -> str:
    """Return what `sam3ft explain` says of a run, and tell it."""
    command = [str(Path(sys.executable).with_name("sam3ft")), "explain", name, "-n", NAMESPACE]
    environ = os.environ | {"KUBECONFIG": str(site.plane.admin_kubeconfig), "COLUMNS": "400"}
    said = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    line = " ".join((said.stdout + said.stderr).split())
    site.story(f"sam3ft explain {name}: {line}")
    return line


def end(site: Site, name: str) -> None:
    """Delete a run: its pods make room for the next one's."""
    site.in_lab("delete", "sft", name, "--wait=false")


def test_an_image_that_is_not_there(few: Site) -> None:
    image = f"{few.nodes.registry}/sam3ft/trainer:missing"
    run = told(few, "wrong-image", is_degraded, workers={"nodes": 2, "gpusPerNode": 0, "image": image})
    why = explained(few, "wrong-image")
    end(few, "wrong-image")

    assert "Checking" == phase_of(run)
    assert condition_of(run, "Degraded")["reason"] in ("ErrImagePull", "ImagePullBackOff")
    assert image in condition_of(run, "Degraded")["message"]
    assert "check workers.image" in why


def test_a_secret_that_is_not_there(few: Site) -> None:
    run = told(few, "wrong-secret", is_degraded, storage={"secretRef": "absent"})
    why = explained(few, "wrong-secret")
    few.secret("absent", AWS_ACCESS_KEY_ID=few.nodes.s3_keys[0], AWS_SECRET_ACCESS_KEY=few.nodes.s3_keys[1])
    few.wait("wrong-secret", "made meanwhile, it goes on", lambda it: not is_degraded(it), within_s=180)
    end(few, "wrong-secret")

    assert "Checking" == phase_of(run)
    assert "Secret absent does not exist" in condition_of(run, "Degraded")["message"]
    assert "absent" in why


def test_keys_that_are_wrong(few: Site) -> None:
    few.secret("wrong", AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="nothing-that-opens")  # noqa: S106 - opens nothing
    run = told(few, "wrong-keys", has_failed, storage={"secretRef": "wrong"})
    why = explained(few, "wrong-keys")
    end(few, "wrong-keys")

    assert ("True", "StorageDenied") == status_and_reason(run, "Failed")
    assert "nothing-that-opens" not in json.dumps(run["status"])
    assert "Check the address, the credentials and their permissions" in why


def test_a_bucket_that_is_not_there(few: Site) -> None:
    run = told(few, "no-bucket", has_failed, checkpoint={"uri": "s3://nowhere/no-bucket", "everySteps": 10})
    why = explained(few, "no-bucket")
    end(few, "no-bucket")

    assert ("True", "StorageDenied") == status_and_reason(run, "Failed")
    assert "nowhere" in run["status"]["summary"]["message"]
    assert "nowhere" in why


def test_a_data_set_that_lacks_an_image(few: Site) -> None:
    data = {"uri": "s3://datasets/broken", "phrases": {"rbc": ["red blood cell"]}}
    run = told(few, "broken-data", has_failed, data=data)
    why = explained(few, "broken-data")
    end(few, "broken-data")

    assert ("True", "InvalidDataset") == status_and_reason(run, "Failed")
    assert "False" == condition_of(run, "DatasetReady")["status"]
    assert ".jpg" in run["status"]["summary"]["message"]
    assert "Correct the images or annotations" in why


def test_a_worker_that_gets_too_little_memory(few: Site) -> None:
    workers = {"nodes": 1, "gpusPerNode": 0, "profile": "little-memory", "terminationGracePeriodSeconds": 30}
    data = {"uri": "s3://datasets/few", "phrases": {"rbc": ["red blood cell"]}}
    few.apply("little-memory", steps=1000, data=data, workers=workers, failurePolicy={"maxRestarts": 1})
    few.wait("little-memory", "a worker is there", lambda _: few.pods("little-memory", "worker"))
    begun_s = time.monotonic()
    few.wait("little-memory", "it is told", is_told_of_memory, within_s=TOLD_WITHIN_S, may_fail=True)
    run, why = few.run("little-memory"), explained(few, "little-memory")
    few.story(f"a worker without enough memory: told {time.monotonic() - begun_s:.1f} s after its pod was made")
    end(few, "little-memory")

    assert 0 == step_of(run)
    assert "HostOutOfMemory" in json.dumps(run["status"])
    assert "workers.resources.memory" in why


def is_told_of_memory(run: Run) -> bool:
    """Tell whether the status names the reason."""
    return "HostOutOfMemory" in json.dumps(run.get("status"))
