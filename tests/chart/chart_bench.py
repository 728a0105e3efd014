"""The real helm in a home of its own, and what it renders."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "sam3ft"


class Helm:
    """Runs helm.

    Attributes:
        folder: its home, and a place for files of the test.
    """

    def __init__(self, program: Path, folder: Path, *, kubeconfig: Path | None = None) -> None:
        """Run nothing yet; without a kubeconfig no cluster is known to it."""
        self._program, self.folder = program, folder
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "KUBECONFIG": str(kubeconfig or folder / "no-cluster"),
        }

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run to the end; a failure is the test's unless it is asked for."""
        ended = subprocess.run(
            [str(self._program), *words], env=self._environ, capture_output=True, text=True, timeout=180, check=False
        )
        assert ended.returncode == 0 or not check, f"helm {' '.join(words)}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def values(self, **values: Any) -> Path:
        """Write a file of values."""
        path = self.folder / f"values-{len(list(self.folder.glob('values-*')))}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def render(self, *words: str, chart: Path = CHART, **values: Any) -> list[dict[str, Any]]:
        """Return the objects of the chart with these values, as if there were a cluster of today."""
        given = ["-f", str(self.values(**values))] if values else []
        text = self("template", "demo", str(chart), "-n", "ops", "--kube-version", "1.35.4", *given, *words).stdout
        return [document for document in yaml.safe_load_all(text) if document]

    def refusal(self, **values: Any) -> str:
        """Return what is said about values that are refused; empty when they are not."""
        path = self.values(**values)
        words = ("template", "demo", str(CHART), "--kube-version", "1.35.4", "-f", str(path))
        ended = self(*words, check=False)
        return ended.stderr if ended.returncode else ""


def of_kind(objects: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the objects of a kind."""
    return [found for found in objects if found["kind"] == kind]


def the(objects: Iterable[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """Return one object."""
    (found,) = [it for it in of_kind(objects, kind) if it["metadata"]["name"] == name]
    return found
