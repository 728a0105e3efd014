"""One interface for every place where a run can live; each backend passes the same contract tests.

    JobPlan -render-> Submission -submit-> Handle -observe-> Observed

`render` is pure, so that a plan can be shown and compared before anything happens. Everything that differs between
backends is data (`Capabilities`), never a question of type.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol, TypeVar

from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.plan import JobPlan
from sam3ft_api.worker import Progress


class TransientError(Sam3ftError):
    """The backend could not look or could not be reached; nothing is known, so ask again later."""

    code: ClassVar[ExitCode] = ExitCode.STORAGE_UNAVAILABLE


class Unsupported(InvalidConfig):
    """This backend cannot do what was asked; its `Capabilities` said so."""


class RunState(StrEnum):
    """Where a run stands, the same words for every backend."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    INTERRUPTED = "Interrupted"
    GONE = "Gone"

    @property
    def is_terminal(self) -> bool:
        """True when nothing will change without a new submission."""
        return self not in (RunState.PENDING, RunState.RUNNING)

    @classmethod
    def of_end(cls, code: int) -> "RunState":
        """Return the state of a run that has ended with an exit code."""
        ends = {ExitCode.SUCCEEDED: cls.SUCCEEDED, ExitCode.INTERRUPTED: cls.INTERRUPTED}
        return next((state for known, state in ends.items() if known == code), cls.FAILED)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, as data.

    Attributes:
        multi_node: runs over more than one node are possible.
        follow_logs: `logs(follow=True)` is possible.
        restarts_itself: retryable ends are retried without a new submission.
    """

    multi_node: bool
    follow_logs: bool
    restarts_itself: bool


@dataclass(frozen=True, slots=True)
class Handle:
    """All that is needed to find a submitted run again, also from another process.

    Attributes:
        backend: name of the backend that made it.
        uid: identity of the run.
        attempt: number of the attempt, 1 for the first.
        location: where the backend keeps it: a folder, a namespaced name, a job id.
    """

    backend: str
    uid: str
    attempt: int
    location: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What a backend saw at one moment.

    Attributes:
        state: see `RunState`.
        exit_code: of the run, shell style; None while it goes on or when it is unknown.
        reason: CamelCase word as in `exit_codes.EXIT_RULES`, or the backend's own.
        message: one paragraph for people, without secrets.
        node: host on which it runs or ran, empty while unknown.
        heartbeat_age_s: seconds since the run last reported progress; None before the first report.
        progress: newest progress, None before the first.
        restarts: how often the backend has started the launcher again within this attempt.
    """

    state: RunState
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    node: str = ""
    heartbeat_age_s: float | None = None
    progress: Progress | None = None
    restarts: int = 0


class Submission(Protocol):
    """A rendered plan: `str(submission)` shows exactly what will be started or sent, secrets left out."""

    @property
    def key(self) -> tuple[str, int]:
        """(uid, attempt): what makes `submit` idempotent."""
        ...


SubmissionT = TypeVar("SubmissionT", bound=Submission)


class Backend(Protocol[SubmissionT]):
    """A place where runs live."""

    name: str
    capabilities: Capabilities

    def render(self, plan: JobPlan) -> SubmissionT:
        """Return what would be submitted; pure: same plan, same submission, nothing touched."""
        ...

    def submit(self, submission: SubmissionT) -> Handle:
        """Start the run, once: a second call with the same key returns the same handle and starts nothing.

        Raises:
            UserError: the backend refuses it for good.
            TransientError: it is not known whether it was accepted; call again.
        """
        ...

    def observe(self, handle: Handle) -> Observed:
        """Return the state; `RunState.GONE` when there is nothing to see.

        Raises:
            TransientError: the backend could not look.
        """
        ...

    def cancel(self, handle: Handle, *, grace_s: float) -> None:
        """Ask the run to save and end within `grace_s` seconds; returns once the request is accepted.

        Idempotent; nothing happens when the run has ended or is gone.
        """
        ...

    def delete(self, handle: Handle) -> None:
        """Remove what the backend keeps about the run, ending it at once if need be. Idempotent.

        Checkpoints and exports stay: they belong to the user.
        """
        ...

    def logs(self, handle: Handle, *, lines: int, follow: bool = False) -> Iterator[str]:
        """Yield the last `lines` lines, then, with `follow`, new ones until the run ends, over restarts.

        Raises:
            Unsupported: `follow` where `capabilities.follow_logs` is false.
        """
        ...
