"""Every object of a few runs as it was when somebody last looked at it: `pytest --write-golden` writes them anew."""

import re
from pathlib import Path

import pytest
from objects_bench import SETTINGS, finetune, rendered, spec_with

from sam3ft_launch.kubernetes.manifest import to_yaml
from sam3ft_launch.kubernetes.render import KubernetesSubmission

GOLDEN = Path(__file__).parents[2] / "golden/kubernetes"
CASES = {
    "small": rendered(),
    "cpu": rendered(finetune({**spec_with(workers={"nodes": 1, "maxNodes": 1, "gpusPerNode": 0})}, name="3d-cells")),
    "full": rendered(
        finetune(
            {
                **spec_with(
                    workers={
                        "profile": "a100",
                        "warmSpares": True,
                        "priorityClassName": "high",
                        "tolerations": [{"key": "spot", "operator": "Exists"}],
                    },
                    storage={"secretRef": "blood-rw", "dataSecretRef": "blood-ro", "profile": "lab"},
                ),
                "queue": {"localQueue": "gpu"},
            }
        ),
        settings=SETTINGS.model_copy(
            update={
                "storage_profiles": "profiles:\n  lab: {endpoint: https://s3.example}\n",
                "coordinator_priority_class": "sam3ft-coordinator",
                "prometheus_namespace_labels": {"kubernetes.io/metadata.name": "monitoring"},
                "service_queue": "cpu",
            }
        ),
        attempt=12,
        excluded=("node-7", "node-9"),
    ),
}


def shown(submission: KubernetesSubmission) -> str:
    """Text of a submission without what changes with every setting of the trainer: its document and the digests."""
    text = str(submission)
    for thing in submission.objects:
        if thing["kind"] == "ConfigMap":
            files = {**thing["data"], "config.json": "CONFIG"}
            text = text.replace(to_yaml([thing]), to_yaml([{**thing, "data": files}]))
    return re.sub(r'"?\b[0-9a-f]{64}\b"?', "DIGEST", text)


@pytest.mark.parametrize("name", CASES)
def test_objects_are_what_they_were(name: str, request: pytest.FixtureRequest):
    path = GOLDEN / f"{name}.yaml"
    text = shown(CASES[name])
    if request.config.getoption("--write-golden"):
        path.write_text(text)

    assert path.read_text() == text


def test_every_file_has_its_case(request: pytest.FixtureRequest):
    if request.config.getoption("--write-golden"):
        return  # tests have no order, so some may not be written yet
    assert sorted(CASES) == sorted(path.stem for path in GOLDEN.iterdir())
