"""The agent's command, that dies as by SIGKILL at a moment of a submission, named by DIE_AT.

before-intent   the check has passed, nothing has been told
after-intent    the intent stands in the resource, nothing has been asked
asked           the attempt is written down, no job is submitted
submitted       sbatch has ended, its answer has not been read
answered        its answer has been read, and is not written down
recorded        the number is written down, and is not told
"""

import os
import signal
import sys
from typing import Any

from sam3ft_api.status import SlurmStatus
from sam3ft_launch.cli.app import main
from sam3ft_launch.slurm.agent.cluster import SiteCluster
from sam3ft_launch.slurm.agent.scheduler import TickClient
from sam3ft_launch.slurm.agent.wanted import SiteRun

MOMENT = os.environ["DIE_AT"]
_tell, _submit, _run = SiteCluster.tell, TickClient.submit, TickClient._run


def die_at(moment: str) -> None:
    """End without any chance to tidy up, if this is the moment."""
    if moment == MOMENT:
        os.kill(os.getpid(), signal.SIGKILL)


def tell(self: SiteCluster, run: SiteRun, told: SlurmStatus) -> bool:
    """Tell, and perhaps die before or after."""
    is_intent = bool(told.intent) and not told.job_id and told.exit_code is None
    if is_intent:
        die_at("before-intent")
    if told.job_id:
        die_at("recorded")
    done = _tell(self, run, told)
    if is_intent:
        die_at("after-intent")
    return done


def submit(self: TickClient, script: str) -> str:
    """Submit, and perhaps die before, or with the answer."""
    die_at("asked")
    number = _submit(self, script)
    die_at("answered")
    return number


def run(self: TickClient, command: Any) -> tuple[int, str, str]:
    """Call a program, and perhaps die with what it has said."""
    answer = _run(self, command)
    if command[0] == "sbatch":
        die_at("submitted")
    return answer


SiteCluster.tell, TickClient.submit, TickClient._run = tell, submit, run  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
