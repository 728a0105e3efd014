"""Build the images with whatever builds images here, tell their sizes, write their SBOMs, and hand them on.

    python tools/images/images.py build [operator] [trainer] [--variant cpu-test] [--base IMAGE] [--index-url URL]
    python tools/images/images.py push operator trainer --registry 127.0.0.1:5000
    python tools/images/images.py sbom operator --prefix ghcr.io/sam3ft --tag 0.1.0    of images that are here already
    python tools/images/images.py base                      the base for tests, where no registry can be reached

Images are called PREFIX/operator:TAG and PREFIX/trainer:TAG (`--prefix sam3ft --tag dev`). Progress goes to standard
error, a table to standard output (`-o json` for machines), SBOMs (CycloneDX) to dist/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders import Builder, NoBuilder, find_builder
from sbom import sbom_of

ROOT = Path(__file__).parents[2]
IMAGES = ("operator", "trainer")
TEST_BASE = "localhost/sam3ft-test-base:1"
"""A small Debian with Python; `TEST_BUILD_BASE` has a compiler besides."""
TEST_BUILD_BASE = "localhost/sam3ft-test-build-base:1"
_TEST_BASES = {TEST_BASE: (), TEST_BUILD_BASE: ("gcc", "libc6-dev", "binutils")}
NOT_PUBLISHED = "cpu-test"
MOST_OPERATOR_BYTES = 320_000_000
"""Unpacked size of the operator's image, base included."""


def build(builder: Builder, name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Build one image; returns its facts: image, seconds, bytes, layers.

    Raises:
        subprocess.CalledProcessError: the build failed; its output has been printed.
    """
    arguments = {"REVISION": revision(), "VERSION": version()}
    if given.base:
        arguments["BASE"] = arguments["BUILD_BASE"] = given.base
    if given.build_base:
        arguments["BUILD_BASE"] = given.build_base
    if given.index_url:
        arguments["PIP_INDEX_URL"] = given.index_url
    if name == "trainer":
        arguments["VARIANT"] = given.variant
    image = image_name(name, given)
    started = time.monotonic()
    builder.build(ROOT, Path("docker") / f"{name}.Dockerfile", image, arguments)
    return describe(builder, name, image, seconds=round(time.monotonic() - started, 1))


def describe(builder: Builder, name: str, image: str, *, seconds: float = 0.0) -> dict[str, Any]:
    """Write the SBOM of an image that is here; returns its facts, with the seconds that its build took."""
    with builder.opened(image) as (layers, root):
        facts = {"image": image, "seconds": seconds, "bytes": sum(layers), "layers": layers}
        document = sbom_of(root, name=image, version=version())
    target = ROOT / "dist" / f"{name}.cdx.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")
    return facts | {"sbom": str(target.relative_to(ROOT)), "components": len(document["components"])}


def image_name(name: str, given: argparse.Namespace) -> str:
    """Return what an image is called; the variant for tests says so in its tag."""
    mark = f"-{NOT_PUBLISHED}" if name == "trainer" and given.variant == NOT_PUBLISHED else ""
    return f"{given.prefix}/{name}:{given.tag}{mark}"


def version() -> str:
    """Return the project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def revision() -> str:
    """Return the commit of the checkout; empty where there is none."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return ""
    ended = subprocess.run([git, "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip()


def table(facts: list[dict[str, Any]]) -> str:
    """Return the facts for people: each image with its size, and its layers from the bottom."""
    lines = []
    for fact in facts:
        lines.append(f"{fact['image']:<40} {fact['bytes'] / 1e6:8.1f} MB unpacked, built in {fact['seconds']:.1f} s")
        lines += [f"  layer {number:<34} {size / 1e6:8.1f} MB" for number, size in enumerate(fact["layers"], 1)]
        lines.append(f"  {fact['components']} components in {fact['sbom']}")
    return "\n".join(lines)


def make_base(builder: Builder) -> None:
    """Make the bases for tests unless they are there.

    Raises:
        NoBuilder: another program than buildah builds here, or debootstrap is missing.
        subprocess.CalledProcessError: it failed.
    """
    missing = {image: packages for image, packages in _TEST_BASES.items() if not builder.has(image)}
    if not missing:
        return
    if builder.program.name != "buildah" or shutil.which("debootstrap") is None:
        raise NoBuilder("the base for tests is made by buildah and debootstrap: apt-get install buildah debootstrap")
    for image, packages in missing.items():
        words = [str(ROOT / "tools/images/base.sh"), image, *packages]
        subprocess.run(words, check=True, env=builder.environ, stdout=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = parse(arguments)
    try:
        builder = find_builder(os.environ)
        if given.action == "base":
            make_base(builder)
        elif given.action == "push":
            for name in given.names or IMAGES:
                builder.push(image_name(name, given), f"{given.registry}/{image_name(name, given)}")
        else:
            names = given.names or IMAGES
            if given.action == "sbom":
                facts = [describe(builder, name, image_name(name, given)) for name in names]
            else:
                facts = [build(builder, name, given) for name in names]
            print(json.dumps(facts) if given.output == "json" else table(facts))
    except NoBuilder as error:
        print(f"images: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def _name(text: str) -> str:
    if text not in IMAGES:
        raise argparse.ArgumentTypeError(f"{text!r} is no image; there are {', '.join(IMAGES)}")
    return text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options; ends the process for arguments that do not exist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("build", "push", "sbom", "base"))
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help="operator, trainer; or both")
    parser.add_argument("--prefix", default="sam3ft", help="of the images' names (default: %(default)s)")
    parser.add_argument("--tag", default="dev", help="of the images (default: %(default)s)")
    parser.add_argument("--base", default="", metavar="IMAGE", help="in place of the Dockerfiles' own")
    parser.add_argument("--build-base", default="", metavar="IMAGE", help="for the stages that build; default: --base")
    parser.add_argument("--index-url", default="", metavar="URL", help="of Python packages")
    parser.add_argument("--variant", default="cuda", choices=("cuda", NOT_PUBLISHED), help="of the trainer")
    parser.add_argument("--registry", default="", metavar="HOST:PORT", help="to push to")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
