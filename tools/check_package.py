"""Build wheel and source archive, look into both, and run the wheel's command in a bare environment."""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "sam3ft_api": "crds",
    "sam3ft_launch": "operator",
    "sam3ft_operator": "operator",
    "sam3ft_trainer": "trainer",
}
"""Every package with its folder."""
STRANGERS = ("sam3ft_faults/", "tests/", "runs/", ".venv/", "__pycache__/", ".git/")
ENTRY = "sam3ft = sam3ft_launch.cli.app:main"


def build(folder: Path) -> tuple[Path, Path]:
    """Build both archives into `folder`; returns (wheel, source archive)."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def sources() -> set[str]:
    """Return every file that the wheel must hold, by its path inside the wheel."""
    found = set()
    for package, parent in PACKAGES.items():
        folder = ROOT / parent
        tracked = subprocess.run(
            ["git", "ls-files", "--cached", "--", package], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        found |= {path for path in tracked.split() if (folder / path).exists()}
    return found


def check_wheel(wheel: Path) -> list[str]:
    """Return what is wrong with the wheel's content."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entries = next(name for name in names if name.endswith("entry_points.txt"))
        has_entry = ENTRY in archive.read(entries).decode()
    problems = [f"missing in the wheel: {path}" for path in sorted(sources() - names)]
    problems += [f"no business in the wheel: {name}" for name in sorted(names) if _is_strange(name)]
    return problems if has_entry else [*problems, f"the wheel has no entry point {ENTRY!r}"]


def check_source(archive: Path) -> list[str]:
    """Return what is wrong with the source archive's content."""
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"}
    return [f"missing in the source archive: {name}" for name in sorted(wanted - names)] + [
        f"no business in the source archive: {name}" for name in sorted(names) if _is_strange(name)
    ]


def check_command(wheel: Path, folder: Path) -> list[str]:
    """Install the wheel without its trainer extra beside the locked base packages, and run `sam3ft version`."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements/cli.lock")], check=True)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    problems = []
    for words in (["version"], ["run", "--help"], ["plan", "--help"]):
        ended = subprocess.run([str(folder / "bin/sam3ft"), *words], check=False, capture_output=True, text=True)
        if ended.returncode:
            problems.append(f"sam3ft {' '.join(words)} ended with {ended.returncode}: {ended.stderr.strip()}")
    return problems


def _is_strange(name: str) -> bool:
    return name.startswith(STRANGERS) or "__pycache__" in name or name.endswith((".pyc", ".orig"))


def main() -> int:
    """Run every check; returns 1 when there is a problem."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        wheel, archive = build(folder)
        problems = check_wheel(wheel) + check_source(archive) + check_command(wheel, folder / "venv")
        sizes = f"{wheel.name} {wheel.stat().st_size >> 10} KiB, {archive.name} {archive.stat().st_size >> 10} KiB"
    print("\n".join(problems) or f"packages are in order: {sizes}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
