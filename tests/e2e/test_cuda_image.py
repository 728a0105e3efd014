"""The image that is published, with CUDA's libraries, in a pod: two steps on the CPU, there is no GPU here."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import Builder
from e2e_site import Site, phase_of, step_of

from images import TEST_BUILD_BASE, build, image_name, parse

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]
RUN = "cuda"
ROOM_BYTES = 45 << 30
"""For its layers in the builder, in the registry, and in a node."""


@pytest.fixture
def cuda_image(installed: Site, builder: Builder) -> str:
    """Return the image in the cluster's registry. The base has a compiler, as the Dockerfile would add one."""
    free = shutil.disk_usage(Path("/var/lib/containers")).free
    assert free >= ROOM_BYTES, f"{free >> 30} GiB are free, the CUDA image needs {ROOM_BYTES >> 30} on its way"
    given = parse(["build", "trainer", "--prefix", "localhost/sam3ft-test", "--base", TEST_BUILD_BASE])
    facts: dict[str, Any] = build(builder, "trainer", given)
    layers = ", ".join(f"{size / 1e6:.0f}" for size in facts["layers"])
    installed.story(
        f"trainer with CUDA: {facts['bytes'] / 1e6:.0f} MB, built in {facts['seconds']} s, layers of {layers} MB"
    )
    repository, tag = installed.copy(builder, facts["image"], "trainer", image_name("trainer", given).split(":")[-1])
    return f"{repository}:{tag}"


def test_the_cuda_image_trains_two_steps_in_a_pod(installed: Site, cuda_image: str) -> None:
    site = installed
    site.apply(
        RUN,
        steps=2,
        training={"maxSteps": 2, "globalBatchSize": 2, "precision": "fp32", "resolution": 224},
        workers={"nodes": 1, "gpusPerNode": 0, "image": cuda_image},
    )
    site.wait(RUN, "it is done", lambda run: phase_of(run) == "Succeeded", within_s=1800)

    assert 2 == step_of(site.run(RUN))
    assert cuda_image == site.ended_check(RUN)["spec"]["containers"][0]["image"]
