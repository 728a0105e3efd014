"""The images as they are built: what is in them, who runs in them, and that nothing has to be written."""

import argparse
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from builders import Builder

from images import (
    MOST_OPERATOR_BYTES,
    NOT_PUBLISHED,
    TEST_BASE,
    TEST_BUILD_BASE,
    build,
    image_name,
    parse,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
"""A base of its own and torch take minutes and gigabytes, so these belong to `make soak`."""
GIVEN = ["--prefix", "localhost/sam3ft-test", "--base", TEST_BASE, "--build-base", TEST_BUILD_BASE]
MEGABYTE = 1_000_000


class Image:
    """A built image, and processes in it: another user, a root that nobody can write to, a /tmp of its own."""

    def __init__(self, builder: Builder, facts: dict[str, Any], root: Path) -> None:
        """Remember where it is mounted."""
        self.builder, self.facts, self.root = builder, facts, root

    def command(self, *words: str) -> list[str]:
        """Return what runs `words` in the image."""
        script = (
            'mount --rbind "$0" "$0" && mount -o remount,ro,bind "$0" && mount -t tmpfs tmp "$0/tmp" && '
            'chmod 1777 "$0/tmp" && mount --rbind /dev "$0/dev" && exec chroot --userspec=65532:65532 "$0" "$@"'
        )
        path = "PATH=/opt/sam3ft/bin:/usr/local/bin:/usr/bin:/bin"
        inside = ["/usr/bin/env", "-i", path, "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1", *words]
        return ["unshare", "--mount", "sh", "-c", script, str(self.root), *inside]

    def run(self, *words: str) -> str:
        """Run to the end and return the output."""
        ended = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, f"{words}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout


@contextmanager
def built(builder: Builder, name: str, *words: str) -> Iterator[Image]:
    """Build an image, and mount it."""
    given: argparse.Namespace = parse(["build", name, *GIVEN, *words])
    facts = build(builder, name, given)
    buildah = [str(builder.program)]
    made = subprocess.run(
        [*buildah, "from", image_name(name, given)], env=builder.environ, check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        root = subprocess.run(
            [*buildah, "mount", made], env=builder.environ, check=True, capture_output=True, text=True
        ).stdout.strip()
        yield Image(builder, facts, Path(root))
    finally:
        subprocess.run([*buildah, "umount", made], env=builder.environ, check=False, capture_output=True)
        subprocess.run([*buildah, "rm", made], env=builder.environ, check=False, capture_output=True)


@pytest.fixture(scope="module")
def operator(builder: Builder) -> Iterator[Image]:
    with built(builder, "operator") as image:
        yield image


@pytest.fixture(scope="module")
def trainer(builder: Builder) -> Iterator[Image]:
    with built(builder, "trainer", "--variant", NOT_PUBLISHED) as image:
        yield image


def test_the_operator_is_small_and_its_code_is_a_layer_of_its_own(operator: Image) -> None:
    print(json.dumps(operator.facts))
    assert operator.facts["bytes"] <= MOST_OPERATOR_BYTES
    _, dependencies, code = operator.facts["layers"]
    assert code < 5 * MEGABYTE < dependencies


def test_the_operator_needs_nothing_of_the_trainer(operator: Image) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'hydra', 'transformers', 'obstore')))\n"
    modules = "sam3ft_operator.__main__, sam3ft_operator.ready, sam3ft_launch.coordinator.__main__"
    assert "ok" == operator.run("python", "-c", f"{blocked}import {modules}; print('ok')").strip()
    assert [] == list((operator.root / "opt").rglob("torch"))
    assert [] == list((operator.root / "opt").rglob("sam3ft_trainer"))


@pytest.mark.parametrize("module", ["sam3ft_operator", "sam3ft_launch.coordinator"])
def test_what_pods_call_answers(operator: Image, module: str) -> None:
    assert "usage: python -m" in operator.run("python", "-m", module, "--help")


def test_the_operator_hears_sigterm_itself(operator: Image, tmp_path: Path) -> None:
    kubeconfig = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    code = (
        "import os, sys, json\n"
        f"open('/tmp/kubeconfig', 'w').write({json.dumps(json.dumps(kubeconfig))})\n"
        "os.execvp('python', ['python', '-m', 'sam3ft_operator', '--all-namespaces', '--operator-image', 'x',"
        " '--metrics-listen', '127.0.0.1:0', '--kubeconfig', '/tmp/kubeconfig'])\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(operator.command("python", "-c", code), stdout=file, stderr=file)
    give_up_at = time.monotonic() + 60
    while "started; probes and metrics" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up_at, log.read_text()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(40), log.read_text()
    assert "getpwuid" not in log.read_text(), "nobody asks for the name of a user that has none"


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_the_bill_of_materials_names_every_distribution(name: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(name)
    code = "import importlib.metadata as m; print('\\n'.join(f'{d.name}@{d.version}' for d in m.distributions()))"
    installed = {line.lower().replace("_", "-") for line in image.run("python", "-c", code).split()}
    document = json.loads((Path(__file__).parents[2] / image.facts["sbom"]).read_text())
    listed = {it["purl"].removeprefix("pkg:pypi/") for it in document["components"] if "pkg:pypi/" in it["purl"]}
    assert installed <= listed
    assert any(it["purl"].startswith("pkg:deb/debian/libc6@") for it in document["components"])


@pytest.mark.parametrize("name", ["operator", "trainer"])
def test_nothing_of_the_machine_that_built_it_is_left(name: str, request: pytest.FixtureRequest) -> None:
    image: Image = request.getfixturevalue(name)
    left = [path for pattern in ("pip.conf", "*.whl", ".netrc") for path in image.root.rglob(pattern)]
    # An empty mount point stays where the builder's own settings were mounted.
    assert [] == [path for path in left if path.stat().st_size and "ensurepip" not in path.parts
                  and "python-wheels" not in path.parts]  # fmt: skip
    assert not (image.root / "pip").exists()
    assert not (image.root / "src").exists()


def test_the_trainer_computes_in_a_root_that_nobody_can_write_to(trainer: Image) -> None:
    print(json.dumps(trainer.facts))
    code = (
        "import torch, torchvision, transformers\n"
        "from sam3ft_api.training import ModelConfig\n"
        "from sam3ft_trainer.model.load import load_model\n"
        "m = load_model('preset:tiny-nano', ModelConfig(), resolution=28, device='cpu', seed=0)\n"
        "loss = sum(p.square().sum() for p in m.sam3.parameters()); loss.backward()\n"
        "print(torch.cuda.is_available(), all(p.grad is not None for p in m.sam3.parameters()))\n"
    )
    assert "False True" == trainer.run("python", "-c", code).strip()
    assert "usage:" in trainer.run("python", "-m", "sam3ft_trainer", "check", "--help")
    assert "usage:" in trainer.run("python", "-m", "sam3ft_trainer.run.launcher", "--help")


def test_the_variant_for_tests_says_so(builder: Builder, trainer: Image) -> None:
    words = [str(builder.program), "inspect", "--type", "image", trainer.facts["image"]]
    told = subprocess.run(words, env=builder.environ, check=True, capture_output=True, text=True).stdout
    assert f'"dev.sam3ft.variant": "{NOT_PUBLISHED}"' in told
    assert trainer.facts["image"].endswith(f"-{NOT_PUBLISHED}")
