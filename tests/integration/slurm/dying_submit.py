"""Submits a run, and dies as by SIGKILL at a moment that is named: `python dying_submit.py MOMENT RUNS UID SCRIPT`.

intent     the attempt is written down, nothing has been asked
asked      SLURM was asked for a job of that name, none is submitted
submitted  sbatch has ended, its answer has not been read
answered   its answer has been read, and is not written down
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from sam3ft_api.plan import JobPlan, SlurmPlacement
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.slurm.backend import SlurmBackend
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.settings import SlurmSettings

FAKE_LAUNCHER = Path(__file__).parents[2] / "assets/launch/fake_launcher.py"


def die() -> None:
    """End without any chance to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


class DyingClient(SlurmClient):
    """Dies at a moment of its own."""

    def __init__(self, moment: str) -> None:
        """Remember the moment."""
        super().__init__()
        self._moment = moment

    def named(self, name: str) -> Any:
        """Look, and perhaps die before or after."""
        if self._moment == "intent":
            die()
        found = super().named(name)
        if self._moment == "asked":
            die()
        return found

    def submit(self, script: str) -> str:
        """Submit, and perhaps die with the answer."""
        number = super().submit(script)
        if self._moment == "answered":
            die()
        return number

    def _run(self, command: Any) -> tuple[int, str, str]:
        answer = super()._run(command)
        if self._moment == "submitted" and command[0] == "sbatch":
            die()
        return answer


def main(moment: str, runs: str, uid: str, script: str) -> None:
    """Submit, dying at the moment; "never" does not."""
    backend = SlurmBackend(
        Path(runs),
        settings=SlurmSettings(poll_s=0.2),
        client=DyingClient(moment),
        launcher_command=(sys.executable, str(FAKE_LAUNCHER)),
    )
    plan = JobPlan(
        name="cells",
        uid=uid,
        backend="slurm",
        config=TrainingConfig(),
        env={"SCRIPT": script},
        slurm=SlurmPlacement(site="here"),
    )
    backend.submit(backend.render(plan))


if __name__ == "__main__":
    main(*sys.argv[1:])
