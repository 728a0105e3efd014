"""One look at a run, with the questions that several policies ask of it."""

from dataclasses import dataclass
from functools import cached_property

from sam3ft_api import names
from sam3ft_api.spec import SAM3FineTuneSpec
from sam3ft_api.status import AttemptStatus, ConditionType, SAM3FineTuneStatus
from sam3ft_operator.observed import Children, GroupView, JobView, PodView, Resource


@dataclass(frozen=True)
class Look:
    """A resource whose spec is valid, its children, and the time.

    Attributes:
        resource: the resource.
        children: what exists of the run.
        now_s: seconds since the epoch.
    """

    resource: Resource
    children: Children
    now_s: float

    @property
    def spec(self) -> SAM3FineTuneSpec:
        """The spec; only for resources that have a valid one."""
        if self.resource.spec is None:
            raise ValueError("the spec was refused; nothing but the refusal may be decided")
        return self.resource.spec

    @property
    def status(self) -> SAM3FineTuneStatus:
        """The status as it was read."""
        return self.resource.status

    @property
    def newest(self) -> AttemptStatus | None:
        """The newest attempt, ended or not; None before the first."""
        return self.status.attempts[-1] if self.status.attempts else None

    @property
    def attempt(self) -> AttemptStatus | None:
        """The attempt that is open; None between attempts."""
        newest = self.newest
        return newest if newest is not None and newest.finished is None else None

    @property
    def job(self) -> JobView | None:
        """The Job of the open attempt's workers."""
        return self.children.worker_job(self.attempt.n) if self.attempt is not None else None

    @property
    def queue(self) -> str:
        """LocalQueue in which the open attempt's Job waits; empty without one.

        Kueue puts a Job into the queue `default` of its namespace although its resource names none.
        """
        wished = self.spec.queue.local_queue if self.spec.queue is not None else ""
        return (self.job.queue if self.job is not None else "") or wished

    @cached_property
    def workers(self) -> tuple[PodView, ...]:
        """Pods of the open attempt's workers, also those that have ended."""
        return self.children.of_role(names.ROLE_WORKER, attempt=self.attempt.n) if self.attempt is not None else ()

    @cached_property
    def living(self) -> tuple[PodView, ...]:
        """Pods of workers of any attempt whose containers may still do something."""
        return tuple(pod for pod in self.children.of_role(names.ROLE_WORKER) if not pod.has_ended)

    @property
    def group(self) -> GroupView | None:
        """What the coordinator of the open attempt says."""
        group = self.children.group
        return group if group is not None and self.attempt is not None and group.attempt == self.attempt.n else None

    def holds(self, type_: ConditionType) -> bool:
        """Say whether a condition was True when the status was last written."""
        return any(condition.type == type_ and condition.status == "True" for condition in self.status.conditions)
