"""PID 1's duty: reap what other processes left behind, and never a worker."""

import os
from collections.abc import Collection

_MOST_AT_ONCE = 64


def reap_strangers(own_pids: Collection[int]) -> int:
    """Reap ended children that are not ours and return how many there were.

    Looking with WNOWAIT first leaves a worker's exit status to the one who started it: reaping it here would make
    `Popen.poll` return 0 for a worker that failed. An ended worker in front of the queue ends the look; it is reaped
    by its owner within a tick, and the next call goes on.
    """
    for count in range(_MOST_AT_ONCE):
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return count
        if ended is None or ended.si_pid in own_pids:
            return count
        os.waitpid(ended.si_pid, 0)
    return _MOST_AT_ONCE
