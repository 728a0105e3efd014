"""A container image of one static program, written as an archive that containerd imports."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

SANDBOX, PROBE = "test.local/pause:1", "test.local/probe:1"
"""The image that holds a pod's sandbox, and the one that serves, asks and fails on request."""
_USER = "65532"


def write_archive(path: Path, name: str, program: Path, arguments: Sequence[str]) -> None:
    """Write an image that holds a program as `/PROGRAM` and nothing else, in the form of `docker save`.

    Args:
        path: of the archive.
        name: with its tag.
        program: linked statically.
        arguments: what it is called with where a pod says nothing else.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        _add(files, program.name, program.read_bytes(), mode=0o755)
    content = layer.getvalue()
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "Cmd": list(arguments), "User": _USER},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, mode="w") as archive:
        _add(archive, "layer.tar", content)
        _add(archive, "config.json", json.dumps(configuration).encode())
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(content), mode
    archive.addfile(about, io.BytesIO(content))
