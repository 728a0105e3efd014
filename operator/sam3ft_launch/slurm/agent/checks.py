"""The check of a run's data set on the login node, before its job waits in a queue for nothing.

A check is a process of its own; what it finds lies in the run folder, so that an agent that is started again goes on
where the last one was. Only a few run at a time: a login node is everybody's.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.files import write_atomically
from sam3ft_api.plan import JobPlan
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.last_word import read_last_word
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.local.process import kill_or_leave, shell_code, tether

AT_ONCE = 2
"""Checks that run at the same time."""
LONGEST_S = 3600.0
"""A check that takes longer is ended: it hangs, and others wait for its turn."""
PAUSES_S = (15.0, 60.0, 300.0, 900.0)
"""Before a check that ended without a verdict is made again; after the last of them its end is the attempt's."""
_LAST_CHARS = 2000


@dataclass(slots=True)
class _Running:
    process: "subprocess.Popen[bytes]"
    output: Path
    end_s: float


@dataclass(slots=True)
class _Failed:
    count: int = 0
    again_s: float = 0.0


@dataclass(slots=True)
class Checks:
    """Begins checks and says how they ended. Call from the main thread: checks die with it.

    Attributes:
        command: `sam3ft_trainer`'s, without the verb.
        environ: of the processes.
        clock: monotonic seconds.
    """

    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    clock: Callable[[], float] = time.monotonic
    _running: dict[str, _Running] = field(default_factory=dict)
    _failed: dict[str, _Failed] = field(default_factory=dict)
    _waiting: dict[str, object] = field(default_factory=dict)

    def must_wait(self, uid: str, asked: object) -> bool:
        """Tell, without a plan, whether a run that waited last time with the same wish has to wait again.

        It waits for a place, or until its check may be made again.

        Planning is most of what a waiting run costs: hundreds of them would make each look at all runs take seconds.

        Args:
            uid: of the run.
            asked: what its plan follows from; another wish is to be planned, and may be refused.
        """
        if uid in self._running or self._waiting.get(uid) != asked:
            return False
        return self._is_full() or self._pauses(uid)

    def of(self, plan: JobPlan, folder: RunDir, *, turn: int, asked: object) -> Termination | None:
        """Return how the check of a run ended; None while it goes on, waits for others to end, or is made again.

        Args:
            plan: of the attempt.
            folder: of the run; it exists.
            turn: number of the try: what was refused in one may have been mended for the next.
            asked: what the plan follows from, for `must_wait`.
        """
        self._waiting.pop(plan.uid, None)
        word = folder.work / f"check-{turn}.json"
        running = self._running.get(plan.uid)
        if running is not None and running.process.poll() is None and self.clock() < running.end_s:
            return None
        if running is not None:
            self.end(plan.uid)
        said = read_last_word(word)
        if said is not None and (said.code == ExitCode.SUCCEEDED or rule_for(said.code).is_verdict):
            self._failed.pop(plan.uid, None)
            return said
        if running is not None:
            return self._fail(plan.uid, said or _without_a_word(running), word)
        if not self._is_full() and not self._pauses(plan.uid):
            self._begin(plan, folder, word)
        else:
            self._waiting[plan.uid] = asked
        return None

    @property
    def count(self) -> int:
        """How many checks are running."""
        return len(self._running)

    def has_begun(self, uid: str) -> bool:
        """Tell whether a run's check is running."""
        return uid in self._running

    def end(self, uid: str) -> None:
        """End the check of a run, if there is one; one that hangs in a file system is left to itself."""
        self._waiting.pop(uid, None)
        running = self._running.pop(uid, None)
        if running is None:
            return
        kill_or_leave(running.process)

    def end_all(self) -> None:
        """End every check; a new agent begins them again."""
        for uid in list(self._running):
            self.end(uid)

    def _is_full(self) -> bool:
        """Tell whether all places are taken: by what runs, whether or not its run has been served since it ended."""
        now_s = self.clock()
        return sum(it.process.poll() is None and now_s < it.end_s for it in self._running.values()) >= AT_ONCE

    def _pauses(self, uid: str) -> bool:
        failed = self._failed.get(uid)
        return failed is not None and self.clock() < failed.again_s

    def _fail(self, uid: str, said: Termination, word: Path) -> Termination | None:
        """A check that came to no verdict is made again, after a longer pause each time."""
        word.unlink(missing_ok=True)
        failed = self._failed.setdefault(uid, _Failed())
        if failed.count == len(PAUSES_S):
            del self._failed[uid]
            return said
        failed.again_s = self.clock() + PAUSES_S[failed.count]
        failed.count += 1
        return None

    def _begin(self, plan: JobPlan, folder: RunDir, word: Path) -> None:
        write_atomically(folder.config, plan.config.model_dump_json(indent=2) + "\n")
        arguments = ["check", "--for-others", "--config", str(folder.config), "--nproc", str(plan.world_size)]
        arguments += ["--save", str(folder.dataset), "--termination-log", str(word)]
        output = folder.work / "check.log"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*self.command, *arguments],
                env={**self.environ, **plan.env},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal is for the agent
                preexec_fn=tether(),  # noqa: PLW1509 - two system calls, no lock is taken
            )
        self._running[plan.uid] = _Running(process, output, self.clock() + LONGEST_S)


def _without_a_word(running: _Running) -> Termination:
    """A check that left none was ended from outside, or has a defect: its output is all there is."""
    code = shell_code(running.process.poll() or int(ExitCode.INTERNAL_ERROR))
    said = running.output.read_text(errors="replace")[-_LAST_CHARS:].strip()
    return Termination(code=code, reason=rule_for(code).reason, message=f"the check of the data set ended: {said}")
