"""First code of every worker process: ties it to its launcher, sends its output to its log, becomes the worker.

Run as a file by `python -I -S`, so it imports the standard library alone. It sets what survives `exec` and what no
portable argument of a process start offers: the signal that the kernel sends when the launcher dies.

    python -I -S child.py LAUNCHER_PID COMMAND...
"""

import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
ENV_LOG_FILE = "SAM3FT_LOG_FILE"
_ENV_SIGNALS_REACH_WORKERS = "SAM3FT_SIGNALS_REACH_WORKERS"  # as in sam3ft_api.worker, which is not importable here
_ASK_THE_LAUNCHER = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


def main(argv: list[str]) -> None:
    """Never returns: the process becomes `argv[2:]`, or ends with 1 and a message when that cannot be started."""
    launcher_pid, command = int(argv[1]), argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != launcher_pid:
        sys.exit(128 + signal.SIGKILL)  # the launcher died before the kernel was told
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    if os.environ.get(_ENV_SIGNALS_REACH_WORKERS) == "1":
        for number in _ASK_THE_LAUNCHER:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    send_output_to_log()
    try:
        os.execvpe(command[0], command, os.environ)  # noqa: S606 - the command is the launcher's, never a shell's
    except OSError as error:
        print(f"the worker's command {command[0]!r} cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        sys.exit(1)


def send_output_to_log() -> None:
    """Append a line with time, rank and pid to the log that the environment names, and send all output there."""
    log_path = os.environ.pop(ENV_LOG_FILE)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    rank, world = os.environ.get("RANK", "?"), os.environ.get("WORLD_SIZE", "?")
    os.write(log, f"--- {now} rank {rank} of {world}, pid {os.getpid()}\n".encode())
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    main(sys.argv)
