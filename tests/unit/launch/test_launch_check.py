"""What the check before a run is told of where its workers will be."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sam3ft_api.training import TrainingConfig
from sam3ft_launch.cli import session as sessions
from sam3ft_launch.cli.output import OutputFormat


@pytest.mark.parametrize("on_slurm", [True, False])
def test_memory_and_device_are_judged_for_workers_on_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, on_slurm: bool
) -> None:
    told: list[str] = []

    def answer(words: list[str], **_: Any) -> None:
        told.extend(words)
        Path(words[words.index("--save") + 1]).write_text("{}")

    monkeypatch.setattr(sessions, "show_trainer", answer)
    plan = SimpleNamespace(config=TrainingConfig(), world_size=16, slurm=object() if on_slurm else None, env={})
    folder = SimpleNamespace(create=lambda: None, dataset=tmp_path / "dataset.json")
    sessions.check(cast("sessions.Session", SimpleNamespace(plan=plan, folder=folder)), output=OutputFormat.TEXT)

    assert on_slurm == ("--for-others" in told)
    assert "16" == told[told.index("--nproc") + 1]
    assert "{}" == (tmp_path / "dataset.json").read_text()
