"""Programs that build images: docker, podman or buildah, whichever works here."""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ORDER = ("docker", "podman", "buildah")
CA_BUNDLE, PIP_CONF = Path("/etc/ssl/certs"), Path("/etc/pip.conf")


class NoBuilder(RuntimeError):
    """No program builds images here; the message says what to install."""


class Builder:
    """One of the programs.

    Attributes:
        program: its path.
        environ: variables of its calls.
    """

    def __init__(self, program: Path, environ: Mapping[str, str]) -> None:
        """Remember it."""
        self.program = program
        self.environ = dict(environ)
        if program.name == "buildah":
            # Works without user namespaces, as in a container.
            self.environ.setdefault("BUILDAH_ISOLATION", "chroot")
            self.environ.setdefault("STORAGE_DRIVER", "overlay")

    def build(self, context: Path, dockerfile: Path, image: str, arguments: Mapping[str, str]) -> None:
        """Build an image; layers that have not changed are taken from the last time."""
        words = ["bud", "--layers"] if self.program.name == "buildah" else ["build"]
        words += ["--file", str(context / dockerfile), "--tag", image]
        for name, value in arguments.items():
            words += ["--build-arg", f"{name}={value}"]
        if self.program.name != "docker":
            # What this machine trusts and where it installs from holds in the build, and stays out of the image.
            words += ["--volume", f"{CA_BUNDLE}:{CA_BUNDLE}:ro"] if CA_BUNDLE.is_dir() else []
            words += ["--volume", f"{PIP_CONF}:{PIP_CONF}:ro"] if PIP_CONF.is_file() else []
            words += ["--network", "host"]
        self._run(*words, str(context))

    def has(self, image: str) -> bool:
        """Say whether an image is there."""
        words = [str(self.program), "inspect", "--type", "image", image]
        return subprocess.run(words, env=self.environ, capture_output=True, check=False).returncode == 0

    def push(self, image: str, target: str, *, is_plain: bool = False) -> None:
        """Copy an image to a registry; one on this machine, or with `is_plain`, speaks plain HTTP."""
        plain = is_plain or target.startswith(("127.0.0.1:", "localhost:"))
        if self.program.name == "docker":
            self._run("tag", image, target)
            self._run("push", target)
            return
        # zstd at its first level is twice as fast as gzip, both ways.
        words = ["push", "--format", "oci", "--compression-format", "zstd", "--compression-level", "1"]
        self._run(*words, *(["--tls-verify=false"] if plain else []), image, f"docker://{target}")

    @contextmanager
    def opened(self, image: str) -> Iterator[tuple[list[int], Path]]:
        """Give the unpacked sizes of an image's layers in bytes, from the bottom, and a folder with what describes it.

        The folder holds the files that an SBOM needs, and goes away afterwards.
        """
        with self._archive(image) as folder, tempfile.TemporaryDirectory(prefix="sam3ft-image-") as root:
            manifest = json.loads((folder / "manifest.json").read_text())[0]
            sizes = []
            for layer in manifest["Layers"]:
                with tarfile.open(folder / layer) as tar:
                    files = [member for member in tar if member.isfile()]
                    sizes.append(sum(member.size for member in files))
                    described = [member for member in files if _describes(member.name)]
                    tar.extractall(root, members=described, filter="data")
            yield sizes, Path(root)

    @contextmanager
    def _archive(self, image: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="sam3ft-image-") as name:
            archive = Path(name) / "image.tar"
            if self.program.name == "buildah":
                self._run("push", image, f"docker-archive:{archive}", quiet=True)
            else:
                self._run("save", "--output", str(archive), image, quiet=True)
            with tarfile.open(archive) as tar:
                tar.extractall(name, filter="data")
            archive.unlink()
            yield Path(name)

    def _run(self, *words: str, quiet: bool = False) -> None:
        output = subprocess.DEVNULL if quiet else sys.stderr
        subprocess.run([str(self.program), *words], env=self.environ, check=True, stdout=output, stderr=output)


def find_builder(environ: Mapping[str, str]) -> Builder:
    """Return the first program that works here; `SAM3FT_BUILDER` names one.

    Raises:
        NoBuilder: there is none.
    """
    wanted = environ.get("SAM3FT_BUILDER")
    for name in (wanted,) if wanted else ORDER:
        found = shutil.which(name)
        # A docker without its engine is installed on many machines, and builds nothing.
        if found is None:
            continue
        ended = subprocess.run([found, "info"], env=dict(environ), capture_output=True, check=False)
        if ended.returncode == 0:
            return Builder(Path(found), environ)
    raise NoBuilder(
        f"{wanted or 'none of docker, podman and buildah'} works here; on Debian and Ubuntu: apt-get install buildah"
    )


def _describes(name: str) -> bool:
    """Say whether a file tells what is installed."""
    return name.endswith(".dist-info/METADATA") or name in ("var/lib/dpkg/status", "./var/lib/dpkg/status")
