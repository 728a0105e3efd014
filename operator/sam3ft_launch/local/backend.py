"""The local backend: runs on this machine, each driven by a supervisor process of its own."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sam3ft_api.errors import Fenced, Sam3ftError, StorageDenied
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.plan import JobPlan
from sam3ft_launch.backend import Capabilities, Handle, Observed, RunState, TransientError, Unsupported
from sam3ft_launch.folder.last_word import heartbeat_age_s, read_progress
from sam3ft_launch.folder.logs import follow_lines, last_lines
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import StopRequest, write_stop_request
from sam3ft_launch.local.process import is_alive, send_signal, tether
from sam3ft_launch.local.record import Phase, RunRecord, read_record
from sam3ft_launch.local.submission import COORDINATOR_COMMAND, LAUNCHER_COMMAND, LocalSubmission

SUPERVISOR_COMMAND = (sys.executable, "-m", "sam3ft_launch.local.supervisor")
_START_S = 30.0
_KILL_S = 10.0
_POLL_S = 0.05


class LocalBackend:
    """Runs on this machine; a handle's location is the run folder.

    Attributes:
        name: `local`.
        capabilities: one node; logs can be followed; the supervisor restarts the launcher.
    """

    name = "local"
    capabilities = Capabilities(multi_node=False, follow_logs=True, restarts_itself=True)

    def __init__(
        self,
        runs: Path,
        *,
        run_dir: Path | None = None,
        detached: bool = True,
        coordinator_command: tuple[str, ...] = COORDINATOR_COMMAND,
        launcher_command: tuple[str, ...] = LAUNCHER_COMMAND,
    ) -> None:
        """Prepare; nothing is touched.

        Args:
            runs: absolute folder whose subfolders, by name of the run, are the run folders.
            run_dir: absolute folder to use instead, for the one run that it holds.
            detached: False ties runs to the life of this process: whatever ends it ends them. Submit from the main
                thread then, and stay alive.
            coordinator_command: how a coordinator is started, without its arguments.
            launcher_command: how a launcher is started, without its arguments.
        """
        self._runs = runs
        self._run_dir = run_dir
        self._detached = detached
        self._coordinator_command = coordinator_command
        self._launcher_command = launcher_command
        self._supervisors: dict[int, subprocess.Popen[bytes]] = {}  # by pid, kept until they are reaped

    def render(self, plan: JobPlan) -> LocalSubmission:
        """Return the processes that `submit` would start; pure.

        Raises:
            Unsupported: the plan needs more than one node.
        """
        if plan.nodes != 1:
            raise Unsupported(
                f"LocalBackend: the plan asks for {plan.nodes} nodes, and this machine is one; "
                "set workers.nodes to 1 and choose the number of processes with --nproc"
            )
        return LocalSubmission(
            name=plan.name,
            uid=plan.uid,
            attempt=plan.attempt,
            run_dir=str(self._run_dir or self._runs / plan.name),
            processes=plan.processes_per_node,
            grace_s=plan.grace_s,
            deadline_s=plan.deadline_s,
            env=plan.env,
            budget=plan.budget,
            warm_spares=plan.warm_spares,
            config_json=plan.config.model_dump_json(indent=2) + "\n",
            finetune_yaml=plan.source,
            coordinator_command=self._coordinator_command,
            launcher_command=self._launcher_command,
        )

    def submit(self, submission: LocalSubmission) -> Handle:
        """Start the supervisor, once per (uid, attempt).

        Raises:
            Fenced: another process drives the folder, the folder belongs to another run, or the attempt is an old one.
            StorageDenied: the folder cannot be made.
            Sam3ftError: the supervisor ended before it had begun; the message is its own.
        """
        folder = submission.folder
        handle = Handle(self.name, submission.uid, submission.attempt, submission.run_dir)
        if self._is_submitted(folder, submission):
            return handle
        folder.create()
        with tempfile.TemporaryFile() as refusal:
            process = subprocess.Popen(
                SUPERVISOR_COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=refusal,
                start_new_session=True,  # Ctrl-C reaches the command line only, which then cancels in an orderly way
                preexec_fn=None if self._detached else tether(),  # noqa: PLW1509 - only forks, prctl and exec follow
            )
            self._supervisors[process.pid] = process
            self._tell(process, submission)
            code = self._wait_until_begun(process, folder, submission)
            if code is None or self._is_submitted(folder, submission):
                return handle
            refusal.seek(0)
            message = refusal.read().decode(errors="replace").strip()
        if code == ExitCode.FENCED:
            raise Fenced(message)
        raise Sam3ftError(f"the supervisor ended with {code} before it had begun: {message or 'it said nothing'}")

    def observe(self, handle: Handle) -> Observed:
        """Return the state from the supervisor's record and the trainer's progress file.

        Raises:
            TransientError: the record exists and cannot be read.
        """
        folder = RunDir(Path(handle.location))
        record = self._own_record(handle)
        if record is None:
            return Observed(RunState.GONE, message=f"{folder.root} holds no such attempt")
        # The record is read again after the process was found dead: it may have written its last word in between.
        if record.phase != Phase.ENDED and not is_alive(record.supervisor):
            record = self._own_record(handle) or record
        progress = read_progress(folder.progress)
        state = _state_of(record, has_progress=progress is not None)
        gone = state is RunState.GONE
        return Observed(
            state,
            exit_code=record.exit_code,
            reason="SupervisorGone" if gone else record.reason,
            message="the supervisor was killed; the same command resumes the run" if gone else record.message,
            node=record.host,
            heartbeat_age_s=heartbeat_age_s(folder.progress),
            progress=progress,
            restarts=record.restarts,
        )

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        """Ask the supervisor to stop; a later call can only shorten the time that is left."""
        record = self._own_record(handle)
        if record is None or not record.is_live:
            return
        request = StopRequest(attempt=handle.attempt, grace_s=grace_s)
        write_stop_request(RunDir(Path(handle.location)).stop_request, request)
        send_signal(record.supervisor, signal.SIGTERM)

    def delete(self, handle: Handle) -> None:
        """Kill what runs and remove everything but checkpoints and model."""
        record = self._own_record(handle)
        if record is not None:
            send_signal(record.supervisor, signal.SIGKILL)
            if own_child := self._supervisors.pop(record.supervisor.pid, None):
                own_child.wait(_KILL_S)
        self._supervisors = {pid: process for pid, process in self._supervisors.items() if process.poll() is None}
        if record is None:
            return
        folder = RunDir(Path(handle.location))
        with folder.driving(wait_s=_KILL_S):
            folder.remove_state()

    def logs(self, handle: Handle, *, lines: int, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """Yield lines of the run's log, which holds every attempt.

        Args:
            handle: the run.
            lines: how many to begin with.
            follow: go on until the run ends.
            rank: the log of this worker instead of the run's, which has supervisor, launcher and rank 0.
        """
        folder = RunDir(Path(handle.location))
        path = folder.log if rank is None else folder.worker_logs / f"rank-{rank}.log"
        if not follow:
            return iter(last_lines(path, lines=lines))
        return follow_lines(path, lines=lines, is_over=lambda: self.observe(handle).state.is_terminal)

    def _own_record(self, handle: Handle) -> RunRecord | None:
        try:
            record = read_record(RunDir(Path(handle.location)).record)
        except StorageDenied as error:
            raise TransientError(str(error)) from error
        if record is None or (record.uid, record.attempt) != (handle.uid, handle.attempt):
            return None
        return record

    @staticmethod
    def _is_submitted(folder: RunDir, submission: LocalSubmission) -> bool:
        record = read_record(folder.record)
        if record is None:
            return False
        if record.uid != submission.uid:
            raise Fenced(
                f"run folder {folder.root} belongs to the run {record.name!r} ({record.uid}); "
                "name another folder with --run-dir"
            )
        if record.attempt > submission.attempt:
            raise Fenced(f"attempt {submission.attempt} of {record.name!r} is superseded by attempt {record.attempt}")
        return record.attempt == submission.attempt

    @staticmethod
    def _tell(process: subprocess.Popen[bytes], submission: LocalSubmission) -> None:
        if process.stdin is None:  # pragma: no cover - a pipe was asked for
            raise RuntimeError("the supervisor has no standard input")
        try:
            with process.stdin as stdin:
                stdin.write(submission.model_dump_json().encode())
        except BrokenPipeError:
            return  # it ended already; its own words say why

    def _wait_until_begun(
        self, process: subprocess.Popen[bytes], folder: RunDir, submission: LocalSubmission
    ) -> int | None:
        give_up_at_s = time.monotonic() + _START_S
        while time.monotonic() < give_up_at_s:
            if (code := process.poll()) is not None:
                return code
            record = read_record(folder.record) if self._is_submitted(folder, submission) else None
            if record is None:
                time.sleep(_POLL_S)
            elif record.supervisor.pid == process.pid:
                return None
            else:
                return process.wait(_START_S)  # another submission of the same attempt came first
        raise TransientError(f"the supervisor did not begin within {_START_S:.0f} s; this machine may be overloaded")


def _state_of(record: RunRecord, *, has_progress: bool) -> RunState:
    if record.phase == Phase.ENDED:
        return RunState.FAILED if record.exit_code is None else RunState.of_end(record.exit_code)
    if not is_alive(record.supervisor):
        return RunState.GONE
    return RunState.RUNNING if has_progress else RunState.PENDING
