"""The real command in processes of its own, with a trainer that follows a script."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam3ft_launch.local.record import RunRecord, read_record

FAKE_TRAINER = Path(__file__).parents[2] / "assets/launch/fake_trainer"
YAML = """\
apiVersion: sam3ft.dev/v1alpha1
kind: SAM3FineTune
metadata: {name: cells}
spec:
  model: {uri: preset:tiny}
  data: {uri: blood}
  training: {globalBatchSize: 2, epochs: 2, resolution: 224}
"""


@dataclass
class Cli:
    """The command `sam3ft` in one folder.

    Attributes:
        folder: its current folder, with `cells.yaml` in it.
        environment: of every call; SCRIPT tells the launcher what to do.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str, script: str = "end:0", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.argv(*words),
            cwd=self.folder,
            env=self.env(script, environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *words: str, script: str = "wait") -> "subprocess.Popen[str]":
        """Start and return at once; output is collected."""
        return subprocess.Popen(
            self.argv(*words),
            cwd=self.folder,
            env=self.env(script, {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def argv(self, *words: str) -> list[str]:
        """Return the command line."""
        return [sys.executable, "-c", "import sys; from sam3ft_launch.cli.app import main; sys.exit(main())", *words]

    def env(self, script: str, more: dict[str, str]) -> dict[str, str]:
        """Return the environment of a call."""
        return {**os.environ, **self.environment, "SCRIPT": script, "COLUMNS": "200", **more}

    def record(self) -> RunRecord:
        """Return the record of the run `cells`."""
        record = read_record(self.folder / "runs/cells/run.json")
        assert record is not None
        return record


def json_lines(text: str) -> list[dict[str, Any]]:
    """Return every line as JSON."""
    return [json.loads(line) for line in text.splitlines()]
