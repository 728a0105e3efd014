"""The command, ready to be called."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_bench import FAKE_TRAINER, YAML, Cli

from sam3ft_launch.backend import Handle
from sam3ft_launch.local.backend import LocalBackend
from sam3ft_launch.local.record import read_record


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command in a fresh folder; runs that are left are ended."""
    (tmp_path / "cells.yaml").write_text(YAML)
    yield Cli(tmp_path, {"PYTHONPATH": str(FAKE_TRAINER)})
    for path in list(tmp_path.rglob("run.json")):
        if (record := read_record(path)) is None:
            continue
        LocalBackend(tmp_path).delete(Handle("local", record.uid, record.attempt, str(path.parent)))
