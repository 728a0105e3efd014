"""The process that drives one local run: it owns the lock, starts and restarts the children, and writes the record.

Started by `LocalBackend.submit` as `python -m sam3ft_launch.local.supervisor`, with the submission on its standard
input. SIGTERM asks it to save and end. Its own death, by whatever signal, takes every process of the run with it.
"""

import math
import secrets
import signal
import socket
import sys
import time
import traceback
from datetime import UTC, datetime
from types import FrameType
from typing import IO, Any

from sam3ft_api.errors import Fenced, Sam3ftError
from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.files import write_atomically
from sam3ft_api.termination import Termination
from sam3ft_launch.folder.ends import PastEnd
from sam3ft_launch.folder.last_word import read_commit_step, read_last_word
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import read_stop_request
from sam3ft_launch.local.children import Coordinator, Launcher
from sam3ft_launch.local.process import own_identity
from sam3ft_launch.local.record import Phase, RunRecord, read_record, write_record
from sam3ft_launch.local.submission import LocalSubmission
from sam3ft_launch.restart import EndRun, LauncherEnd, decide_restart

_TICK_S = 0.1
_LOCK_WAIT_S = 10.0
_NUM_ENDS_SHOWN = 10
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Drives one attempt to its end."""

    def __init__(self, submission: LocalSubmission, *, lock: int, log: IO[bytes]) -> None:
        """Prepare; nothing is started.

        Args:
            submission: what to run.
            lock: descriptor of the run folder's lock, inherited by the launcher.
            log: the run's log, unbuffered.
        """
        self._submission = submission
        self._folder = submission.folder
        self._log = log
        token = secrets.token_hex(32)
        self._coordinator = Coordinator(submission, token=token)
        self._launcher = Launcher(submission, token=token, lock=lock, output=log)
        self._ends: list[LauncherEnd] = []
        self._stop_requested = False
        self._has_stop_news = False
        self._is_overdue = False
        self._kill_at_s = math.inf
        self._deadline_s = time.monotonic() + (submission.deadline_s or math.inf)
        self._record = RunRecord(
            name=submission.name,
            uid=submission.uid,
            attempt=submission.attempt,
            phase=Phase.STARTING,
            supervisor=own_identity(),
            processes=submission.processes,
            host=socket.gethostname(),
            started_unix_s=time.time(),
        )

    def run(self) -> int:
        """Run to the end, leave it in the record, and return the exit code of the attempt."""
        for number in _STOP_SIGNALS:
            signal.signal(number, self._on_stop_signal)
        self._folder.progress.unlink(missing_ok=True)  # an earlier attempt's would be taken for this one's
        self._write()
        try:
            outcome = self._drive()
        except Sam3ftError as error:
            outcome = EndRun(error.code, str(error))
        finally:
            self._launcher.kill()
            self._coordinator.stop()
        self._say(f"run ended with {outcome.code}: {outcome.why}")
        self._write(
            phase=Phase.ENDED,
            launcher=None,
            exit_code=outcome.code,
            reason=rule_for(outcome.code).reason,
            message=outcome.why,
            ended_unix_s=time.time(),
        )
        return outcome.code

    def _drive(self) -> EndRun:
        while not self._stop_requested:
            self._coordinator.ensure_running()
            self._launcher.start(self._coordinator.address)
            self._write(phase=Phase.RUNNING, launcher=self._launcher.identity)
            word = self._take_end(self._wait_for_launcher())
            verdict = decide_restart(self._ends, budget=self._submission.budget, stop_requested=self._stop_requested)
            if isinstance(verdict, EndRun):
                why = word.message if word and word.message else verdict.why
                return EndRun(verdict.code, f"activeDeadlineSeconds has passed. {why}" if self._is_overdue else why)
            self._say(verdict.why)
            self._write(phase=Phase.RESTARTING, launcher=None, restarts=self._record.restarts + 1)
            self._pause(verdict.delay_s)
        return EndRun(ExitCode.INTERRUPTED, "Asked to stop while no worker ran; nothing was lost.")

    def _wait_for_launcher(self) -> int:
        while (code := self._launcher.poll()) is None:
            if self._coordinator.ensure_running():
                self._say(f"coordinator started again at {self._coordinator.address}")
            if not self._stop_requested and time.monotonic() >= self._deadline_s:
                self._say("the run's deadline (activeDeadlineSeconds) has passed")
                self._stop_requested = self._has_stop_news = self._is_overdue = True
            if self._has_stop_news:
                self._forward_stop()
            if time.monotonic() >= self._kill_at_s:
                self._say("the time to save is over; killing the launcher")
                self._launcher.kill()
            time.sleep(_TICK_S)
        return code

    def _forward_stop(self) -> None:
        self._has_stop_news = False
        request = read_stop_request(self._folder.stop_request, attempt=self._submission.attempt)
        grace_s = request.grace_s if request else self._submission.grace_s
        self._kill_at_s = min(self._kill_at_s, time.monotonic() + grace_s)  # a second request can only shorten it
        self._say(f"asked to stop; the launcher has {grace_s:g} s to save")
        self._write(phase=Phase.STOPPING)
        self._launcher.signal(signal.SIGTERM)

    def _take_end(self, code: int) -> Termination | None:
        word = read_last_word(self._folder.last_word)
        end = LauncherEnd(
            code=code,
            at_s=time.monotonic(),
            has_last_word=word is not None,
            commit_step=read_commit_step(self._folder.progress),
        )
        self._ends.append(end)
        reason = rule_for(code).reason
        self._say(f"launcher ended with {code} ({reason})")
        past = PastEnd(code=code, reason=reason, at_unix_s=time.time(), commit_step=end.commit_step)
        self._record = self._record.model_copy(update={"ends": (*self._record.ends, past)[-_NUM_ENDS_SHOWN:]})
        return word

    def _pause(self, delay_s: float) -> None:
        until_s = time.monotonic() + delay_s
        while not self._stop_requested and time.monotonic() < until_s:
            time.sleep(_TICK_S)

    def _on_stop_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requested = True
        self._has_stop_news = True

    def _write(self, **changes: Any) -> None:
        self._record = self._record.model_copy(update=changes)
        write_record(self._folder.record, self._record)

    def _say(self, text: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._log.write(f"{stamp} supervisor: {text}\n".encode())


def main() -> int:
    """Drive the submission on standard input; the exit code is the attempt's.

    A refusal (the folder is driven by another process) is one line on standard error.
    """
    submission = LocalSubmission.model_validate_json(sys.stdin.buffer.read())
    folder = submission.folder
    try:
        folder.create()
        # A holder that lives stays; one that was just killed frees the lock with the last of its processes.
        with (
            folder.driving(wait_s=_LOCK_WAIT_S, is_hopeless=lambda: _is_live(folder)) as lock,
            folder.log.open("ab", buffering=0) as log,
        ):
            _refuse_if_submitted(submission)
            write_atomically(folder.config, submission.config_json)
            write_atomically(folder.finetune, submission.finetune_yaml)
            return _run_logged(Supervisor(submission, lock=lock, log=log), log)
    except Sam3ftError as error:
        sys.stderr.write(f"{error}\n")
        return error.code


def _is_live(folder: RunDir) -> bool:
    record = read_record(folder.record)
    return record is not None and record.is_live


def _refuse_if_submitted(submission: LocalSubmission) -> None:
    """Look again under the lock: another submission of the same attempt may have come first, and even have ended."""
    record = read_record(submission.folder.record)
    if record is not None and record.attempt >= submission.attempt:
        raise Fenced(f"attempt {record.attempt} of {record.name!r} was submitted by another process at the same time")


def _run_logged(supervisor: Supervisor, log: IO[bytes]) -> int:
    try:
        return supervisor.run()
    except Exception:  # noqa: BLE001 - the edge of the process: the traceback belongs into the run's log
        log.write(traceback.format_exc().encode())
        return ExitCode.INTERNAL_ERROR


if __name__ == "__main__":
    sys.exit(main())
