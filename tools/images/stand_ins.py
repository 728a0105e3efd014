"""Libraries that are asked for and never called: on a machine without a GPU torch needs their names alone.

torch's own libraries name the CUDA libraries as needed, so the loader refuses them where those are missing. For each
missing name a shared object is compiled that defines every symbol which torch takes from it, under its version, as a
function that returns an error. For tests: whoever called one would get that error, as with a broken driver.
"""

import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

NOT_SUPPORTED = 999
"""What every stand-in returns: CUDA's and its libraries' code for an unknown error."""
_PREFIXES = {
    "cublas": ("libcublas.so",),
    "cublasLt": ("libcublasLt.so",),
    "cudnn": ("libcudnn.so",),
    "cufft": ("libcufft.so",),
    "curand": ("libcurand.so",),
    "cusolver": ("libcusolver.so",),
    "cusparseLt": ("libcusparseLt.so",),
    "cusparse": ("libcusparse.so",),
    "nccl": ("libnccl.so",),
    "pnccl": ("libnccl.so",),
    "nvrtc": ("libnvrtc.so",),
    "nvshmem": ("libnvshmem_host.so",),
}
"""Beginnings of symbols without a version, and of the library that has them."""


def make_stand_ins(folder: Path) -> set[str]:
    """Compile what is missing into `folder`, torch's own; returns the names of the libraries.

    Raises:
        FileNotFoundError: there is no compiler, or no binutils.
        subprocess.CalledProcessError: a library cannot be read or compiled.
    """
    libraries = sorted(path for path in folder.glob("*.so*") if path.is_file() and not path.is_symlink())
    symbols: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for library in libraries:
        missing = [name for name in needed(library) if is_of_gpu(name)]
        versions = version_owners(library)
        for symbol, version in undefined(library):
            owner = versions.get(version) if version else _owner_by_prefix(symbol, missing)
            if owner in missing:
                symbols[owner][version].add(symbol)
        for name in missing:
            symbols[name][""] |= set()
    for name, by_version in symbols.items():
        _compile(folder / name, by_version)
    return set(symbols)


def is_of_gpu(name: str) -> bool:
    """Say whether a needed library is one that the wheels of `cpu-test` lack."""
    return name.startswith(tuple(prefix for names in _PREFIXES.values() for prefix in names))


def needed(library: Path) -> list[str]:
    """Return the names of the libraries that a shared object needs."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", _output("readelf", "-dW", str(library)))


def version_owners(library: Path) -> dict[str, str]:
    """Return which needed library each version of a symbol comes from."""
    owners, owner = {}, ""
    for line in _output("readelf", "-VW", str(library)).splitlines():
        if found := re.search(r"File: (\S+)", line):
            owner = found[1]
        elif owner and (found := re.search(r"Name: (\S+)\s+Flags", line)):
            owners[found[1]] = owner
    return owners


def undefined(library: Path) -> list[tuple[str, str]]:
    """Return the symbols that a shared object takes from others, each with its version or an empty text."""
    lines = _output("nm", "-D", "--undefined-only", str(library)).splitlines()
    found = [line.split()[-1].partition("@") for line in lines if line.strip()]
    return [(symbol, version.lstrip("@")) for symbol, _, version in found]


def _owner_by_prefix(symbol: str, missing: list[str]) -> str:
    for prefix in sorted(_PREFIXES, key=len, reverse=True):
        if symbol.startswith(prefix):
            return next((name for name in missing if name.startswith(_PREFIXES[prefix])), "")
    return ""


def _compile(target: Path, by_version: dict[str, set[str]]) -> None:
    names = sorted({symbol for symbols in by_version.values() for symbol in symbols})
    source = "".join(f"int {name}(void) {{ return {NOT_SUPPORTED}; }}\n" for name in names) or "int nothing;\n"
    script = "".join(
        f"{version} {{ global: {'; '.join(sorted(symbols))}; }};\n"
        for version, symbols in sorted(by_version.items())
        if version and symbols
    )
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "stand_in.c").write_text(source)
        (Path(scratch) / "versions").write_text(script)
        versioned = [f"-Wl,--version-script={scratch}/versions"] if script else []
        words = ["gcc", "-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{target.name}", *versioned]
        subprocess.run([*words, "-o", str(target), f"{scratch}/stand_in.c"], check=True)


def _output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
