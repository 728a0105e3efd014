"""The log of a run on a SLURM site, as its agent keeps it beside the checkpoints; read with one's own credentials."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.cli.trainer import TrainerAnswer, ask_trainer
from sam3ft_launch.kubernetes.runs import ClusterRun

POLL_S = 5.0
LAST_LINES_S = 90.0
"""After the end of a run the last of its lines are waited for so long: the agent keeps them every 30 s."""


@dataclass(slots=True)
class SiteLog:
    """One run's log.

    Attributes:
        run: on a site.
        ask: a verb of the trainer.
        clock: monotonic seconds.
        sleep: waits, seconds.
        problem: why nothing could be read; empty while it can be.
    """

    run: ClusterRun
    ask: Callable[[list[str]], TrainerAnswer] = ask_trainer
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    problem: str = ""
    _next: int = 0
    _has_read: bool = False

    def newest(self, *, lines: int) -> list[str]:
        """Return the newest lines that are kept; none, and why in `problem`, where they cannot be read."""
        return self._asked(["--newest", str(lines)])

    def follow(self, *, lines: int, is_over: Callable[[], bool]) -> Iterator[str]:
        """Yield the newest lines and then those that come, until the run has ended and said its last.

        Args:
            lines: how many to begin with.
            is_over: tells whether the run has ended.
        """
        yield from self.newest(lines=lines)
        over_s: float | None = None
        while not self.problem:
            if over_s is None and is_over():
                over_s = self.clock()
            said = self._asked(["--start", str(self._next)])
            yield from said
            if over_s is not None and self.clock() - over_s > LAST_LINES_S:
                return
            self.sleep(POLL_S)

    def _asked(self, words: list[str]) -> list[str]:
        uri = address_of(self.run)
        if is_folder(uri):
            self.problem = f"{uri} is a folder on the site"
            return []
        answer, problem = ask_store(self.run, ["lines", uri, self.run.uid], words, ask=self.ask)
        if answer is not None and answer.code == ExitCode.STORAGE_UNAVAILABLE and self._has_read:
            return []  # a store that was there comes back, and nothing is lost meanwhile
        if answer is None or problem:
            self.problem = problem
            return []
        self._has_read = True
        self._next = int(answer.document.get("next") or 0)
        return [str(line) for line in answer.document.get("lines") or []]


def ask_store(
    run: ClusterRun,
    verb: list[str],
    words: list[str] | None = None,
    *,
    ask: Callable[[list[str]], TrainerAnswer] = ask_trainer,
) -> tuple[TrainerAnswer | None, str]:
    """Return what a verb finds beside a run's checkpoints, with the user's own credentials, and why it finds nothing.

    Args:
        run: whose storage profile counts.
        verb: of the trainer, with the address.
        words: more of its arguments.
        ask: calls the trainer.
    """
    uri = address_of(run)
    try:
        answer = ask([*verb, "--profile", profile_of(run), *(words or [])])
    except InvalidConfig as error:
        return None, f"{uri} cannot be read here: {error}"
    if answer.code != 0:
        return answer, f"{uri} cannot be read: {(answer.message.splitlines() or [''])[0]}"
    return answer, ""


def address_of(run: ClusterRun) -> str:
    """Return where the run's checkpoints are."""
    return str((run.spec.get("checkpoint") or {}).get("uri") or "")


def profile_of(run: ClusterRun) -> str:
    """Return the storage profile by which they are reached."""
    return str((run.spec.get("storage") or {}).get("profile") or "default")


def is_folder(uri: str) -> bool:
    """Say whether an address is a folder of the machine that trains, or none at all."""
    return "://" not in uri or uri.startswith("file:")
