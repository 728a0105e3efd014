"""Install the locked packages of the trainer into an image's environment.

    python3 dependencies.py --variant cuda|cpu-test --pip PIP --venv VENV --lock FILE [--index-url URL]

`cuda` installs the lock as it is. `cpu-test` leaves out what only a GPU needs (several GB) and puts small libraries in
its place, so that the same torch can be imported and computes on the CPU. Standard library only: it runs in the build.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from stand_ins import make_stand_ins

VARIANTS = ("cuda", "cpu-test")
NEEDED_ANYWAY = ("nvidia-cuda-runtime", "nvidia-cufile", "nvidia-cuda-cupti")
"""Small, and asked at import: the runtime answers that there is no device."""
_FOR_GPUS = re.compile(r"(nvidia-|triton$|cuda-)")


def without_gpu_packages(lock: str) -> str:
    """Return a lock without the packages that only a GPU needs; each keeps its hashes."""
    blocks = re.split(r"\n(?=\S)", lock.strip())
    names = [re.match(r"[A-Za-z0-9._-]+", block) for block in blocks]
    kept = [
        block
        for block, name in zip(blocks, names, strict=True)
        if name is None or name[0] in NEEDED_ANYWAY or not _FOR_GPUS.match(name[0])
    ]
    return "\n".join(kept) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, and with cpu-test put the stand-ins beside torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--pip", required=True, help="program that installs")
    parser.add_argument("--venv", type=Path, required=True, help="environment to install into")
    parser.add_argument("--lock", type=Path, required=True, help="packages with hashes")
    parser.add_argument("--index-url", default="", help="index in place of the configured one")
    given = parser.parse_args(arguments)
    text = given.lock.read_text()
    if given.variant == "cpu-test":
        text = without_gpu_packages(text)
    with tempfile.NamedTemporaryFile("w", suffix=".lock") as lock:
        lock.write(text)
        lock.flush()
        index = ["--index-url", given.index_url] if given.index_url else []
        words = [given.pip, *index, "--python", str(given.venv / "bin" / "python"), "install", "--no-deps"]
        # One package of the lock exists as a source archive alone.
        subprocess.run([*words, "--require-hashes", "-r", lock.name], check=True)
    if given.variant == "cpu-test":
        (packages,) = (given.venv / "lib").glob("python3.*/site-packages")
        made = make_stand_ins(packages / "torch" / "lib")
        print(f"stand-ins for {', '.join(sorted(made))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
