"""What the ends of a node's workers mean together: which failed first, and what to answer; pure."""

import re
import signal
from collections.abc import Collection
from dataclasses import dataclass

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_api.worker import WorkerResult

_OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUDA error: out of memory|Failed to CUDA calloc|NCCL.{0,80}out of memory",
)
_TRACEBACK_STARTS = ("Traceback (most recent call last):", "Fatal Python error:")
_FOLLOWERS = frozenset({ExitCode.PEER_LOST, ExitCode.REGROUP, ExitCode.TERMINATED})
"""Codes with which a worker says that something happened elsewhere; another worker's code explains more."""


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How one worker ended.

    Attributes:
        rank: global rank.
        local_rank: place on this node.
        pid: process id it had.
        returncode: as `subprocess` gives it, negative for a signal.
        at_s: when the launcher noticed, monotonic.
        result: its last word, None when it left none that can be read.
        log_tail: end of its output since it was started.
    """

    rank: int
    local_rank: int
    pid: int
    returncode: int
    at_s: float
    result: WorkerResult | None = None
    log_tail: str = ""

    @property
    def code(self) -> int:
        """Exit code as a shell shows it; its last word counts more, for a driver may crash a process after it."""
        if self.result is not None:
            return self.result.code
        return 128 - self.returncode if self.returncode < 0 else self.returncode

    @property
    def traceback(self) -> str:
        """Its traceback: from its last word, else the last one in its output; empty without one, or for a verdict."""
        if self.result is not None and (self.result.traceback or rule_for(self.result.code).is_verdict):
            return self.result.traceback
        return last_traceback(self.log_tail)

    def describe(self) -> str:
        """Return one sentence that names the rank, how it ended, and why."""
        if self.returncode < 0 and self.result is None:
            how = killed_by(-self.returncode)
        else:
            how = f"ended with {self.code} ({rule_for(self.code).reason})"
        why = self.result.message if self.result is not None else ""
        if not why:
            lines = [line for line in (self.traceback or self.log_tail).splitlines() if line.strip()]
            why = lines[-1].strip()[:500] if lines else "it wrote nothing"
        return f"rank {self.rank} (pid {self.pid}) {how}: {why}"

    @property
    def is_out_of_memory(self) -> bool:
        """True when the device had no memory left, whether the worker knew that or not."""
        if self.code == ExitCode.OUT_OF_MEMORY:
            return True
        if self.code != ExitCode.INTERNAL_ERROR and self.returncode != -signal.SIGABRT:
            return False
        said = self.result.message if self.result is not None else ""
        return _OUT_OF_MEMORY.search(f"{said}\n{self.traceback}\n{self.log_tail}") is not None


@dataclass(frozen=True, slots=True)
class GroupEnd:
    """What the ends of all workers of a node amount to.

    Attributes:
        code: 0 when all succeeded, the code that counts when one failed, 143 when the launcher itself ended them.
        first: the end that explains it; None when none failed by itself.
        step: last finished optimizer step of any worker that told.
        checkpoint_step: newest commit that any worker knew.
        micro_batch: largest micro-batch that any worker told; None when none did.
        metrics: last evaluation, by name.
    """

    code: int
    first: WorkerEnd | None
    step: int
    checkpoint_step: int | None
    micro_batch: int | None
    metrics: dict[str, float]

    @property
    def is_out_of_memory(self) -> bool:
        """True when the end that counts is a device without memory."""
        return self.first is not None and self.first.is_out_of_memory


def judge(ends: Collection[WorkerEnd], *, stopped_by_us: Collection[int] = ()) -> GroupEnd:
    """Return what the ends of a node's workers mean.

    A code of the user's (10-16) counts most, then 20, because the checkpoint that was asked for is committed, then a
    code of its own (1, 21, 22, 24, a signal), then those that follow from an end elsewhere (23, 26); among equals the
    first noticed. A worker that the launcher itself has killed explains nothing.

    Args:
        ends: the ends so far, at least one.
        stopped_by_us: local ranks that the launcher signalled before they ended.
    """
    telling = [end for end in ends if end.code != 0 and end.local_rank not in stopped_by_us]
    first = min(telling, key=lambda end: (_weight(end), end.at_s, end.rank), default=None)
    results = [end.result for end in ends if end.result is not None]
    commits = [result.checkpoint_step for result in results if result.checkpoint_step is not None]
    sizes = [result.micro_batch for result in results if result.micro_batch is not None]
    by_rank = sorted(results, key=lambda result: result.rank)
    if first is not None:
        code = first.code
    else:
        code = ExitCode.TERMINATED if any(end.code != 0 for end in ends) else ExitCode.SUCCEEDED
    return GroupEnd(
        code=int(code),
        first=first,
        step=max((result.step for result in results), default=0),
        checkpoint_step=max(commits, default=None),
        micro_batch=max(sizes, default=None),
        metrics=dict(next((result.metrics for result in by_rank if result.metrics), {})),
    )


def last_traceback(text: str) -> str:
    """Return the last Python traceback or fatal error in `text`, to its end; empty without one."""
    start = max(text.rfind(mark) for mark in _TRACEBACK_STARTS)
    return text[start:].strip() if start >= 0 else ""


def _weight(end: WorkerEnd) -> int:
    if rule_for(end.code).is_verdict or end.is_out_of_memory:
        return 0
    if end.code == ExitCode.INTERRUPTED:
        return 1
    return 3 if end.code in _FOLLOWERS else 2


def killed_by(number: int) -> str:
    """Return the words for the end of a process by a signal, with what SIGKILL most often means."""
    how = f"was killed by {_signal_name(number)}"
    return f"{how}, most often the kernel's answer to a lack of host memory" if number == signal.SIGKILL else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
