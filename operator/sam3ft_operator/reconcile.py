"""One look at one run: read, decide, write the status, act, tell. The same from any state, however often."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sam3ft_api import names
from sam3ft_api.errors import UserError
from sam3ft_launch.kubernetes.api import Api, ApiProblem
from sam3ft_launch.kubernetes.kinds import FINETUNE
from sam3ft_launch.kubernetes.pace import TokenBucket
from sam3ft_operator.agents import Agents
from sam3ft_operator.decide import differs_in_counts_alone, is_worth_writing
from sam3ft_operator.decision import Action, Decision, Ensure, Note
from sam3ft_operator.effects import Effects, Refused, Withdrawn
from sam3ft_operator.notes import Notes
from sam3ft_operator.observed import AgentView, Children, GroupView, JobView, PodView, Resource
from sam3ft_operator.progress import ProgressReader, Target
from sam3ft_operator.status_patch import status_patch
from sam3ft_operator.store import ChildStore, ResourceStore
from sam3ft_operator.trouble import Troubles
from sam3ft_operator.views import resource_view

_log = logging.getLogger(__name__)

FIGURES_EVERY_S = 10.0
"""A status of which only the running figures differ is written this often; everything else is written at once."""
FIGURES_PER_S = 20.0
"""Such statuses of all runs together in a second: with more than 200 runs that train, each is written less often.

A write costs an API server 10 ms of a core and more: at 50 a second, half a core went into figures alone (measured).
"""
COUNTS_EVERY_S = 1.0
"""A status of which only counts and words differ is written this often: the pods of a Job start one by one."""
RESYNC_S = 600.0
"""A run is looked at again after this even if nothing asks for it."""


class Decide(Protocol):
    """The pure core."""

    def __call__(self, resource: Resource, children: Children, *, now_s: float) -> Decision:
        """Return what follows from one look."""
        ...


class Written(Protocol):
    """Told of every status that was written."""

    def __call__(self, before: Mapping[str, Any], after: Mapping[str, Any], *, now_s: float) -> None:
        """Take the status that was read and the one that was written, as plain JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Sight:
    """Where a look reads.

    Attributes:
        resources: the resources.
        children: what they own.
        progress: what their coordinators say.
        troubles: why pods of a Job could not be made.
        agents: signs of life of the agents of SLURM sites.
        coordinator_port: of every coordinator's HTTP.
    """

    resources: ResourceStore
    children: ChildStore
    progress: ProgressReader
    troubles: Troubles
    agents: Agents
    coordinator_port: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the queue is told.

    Attributes:
        again_s: look again after so many seconds; None when the run is gone.
        failed: something did not work; the queue waits longer each time.
        is_outage: it is the API server that is not well, and not this run.
    """

    again_s: float | None
    failed: bool = False
    is_outage: bool = False


class Reconciler:
    """Looks at runs; safe for many threads, as long as one run is in one of them."""

    def __init__(
        self,
        api: Api,
        sight: Sight,
        *,
        effects: Effects,
        notes: Notes,
        decide: Decide,
        refusal: Callable[[Resource], str],
        now_s: Callable[[], float],
        written: Written,
    ) -> None:
        """Prepare.

        Args:
            api: for the status.
            sight: where it reads.
            effects: does the actions.
            notes: tells the events.
            decide: the pure core.
            refusal: why a valid resource cannot be run on this cluster; empty when it can.
            now_s: seconds since the epoch by the API server's clock.
            written: told of every status that was written.
        """
        self._api, self._sight, self._written = api, sight, written
        self._effects, self._notes, self._decide, self._now_s = effects, notes, decide, now_s
        self._refusal = refusal
        self._wrote_s: dict[str, float] = {}
        self._figures = TokenBucket(FIGURES_PER_S, FIGURES_PER_S)
        self._turns_s: dict[str, float] = {}

    def reconcile(self, uid: str) -> Outcome:
        """Look at one run once.

        Raises:
            ApiProblem: the API server refused or did not answer; nothing is lost, because the next look repeats it.
        """
        raw = self._sight.resources.get(uid)
        if raw is None:
            self._sight.progress.follow(uid, None)
            self._wrote_s.pop(uid, None)
            self._turns_s.pop(uid, None)
            return Outcome(None)
        resource = self._judged(resource_view(raw))
        children = self._look(resource)
        decision = self._decide(resource, children, now_s=self._now_s())
        if (wait_s := self._can_wait_s(resource, decision)) > 0:
            return Outcome(wait_s if decision.requeue_s is None else min(wait_s, decision.requeue_s))
        patch = status_patch(raw["status"], decision.status)
        may_act = self._write_status(raw, resource, patch) if patch else self._may_make(resource, decision)
        return self._act(resource, decision) if may_act else Outcome(0.0)

    def _judged(self, resource: Resource) -> Resource:
        """Hold a run that has not begun against what this cluster can run: it is refused before anything is made.

        One that has begun is not ended by other settings of the cluster.
        """
        if resource.spec is None or resource.status.attempts:
            return resource
        why = self._refusal(resource)
        return replace(resource, spec=None, refusal=why) if why else resource

    def _can_wait_s(self, resource: Resource, decision: Decision) -> float:
        """Return for how long nothing need be written: figures or counts alone differ, and were written just now."""
        before, after = resource.status, decision.status
        if decision.actions or decision.notes or before == after:
            return 0.0
        since_s = self._now_s() - self._wrote_s.get(resource.uid, 0.0)
        if is_worth_writing(before, after):
            return COUNTS_EVERY_S - since_s if differs_in_counts_alone(before, after) else 0.0
        return FIGURES_EVERY_S - since_s if since_s < FIGURES_EVERY_S else self._until_turn_s(resource.uid)

    def _until_turn_s(self, uid: str) -> float:
        """Return how long figures of this run still wait for those of others."""
        now_s = self._now_s()
        if uid not in self._turns_s:
            self._turns_s[uid] = now_s + self._figures.reserve()
        return self._turns_s[uid] - now_s

    def _look(self, resource: Resource) -> Children:
        found = self._sight.children.of_run(resource.namespace, resource.uid)
        pods = tuple(view for _, _, view in found if isinstance(view, PodView))
        jobs = tuple(view for _, _, view in found if isinstance(view, JobView))
        return Children(
            jobs=tuple(
                replace(job, trouble=self._sight.troubles.of(resource.namespace, job, now_s=self._now_s()))
                for job in jobs
            ),
            pods=pods,
            objects=frozenset((kind, name) for kind, name, view in found if view is None),
            group=self._group(resource, pods),
            agent=self._agent(resource),
        )

    def _agent(self, resource: Resource) -> AgentView | None:
        """Return the agent of a run's site; a run that is over asks for none."""
        phase, spec = resource.status.phase, resource.spec
        if spec is None or spec.backend != "slurm" or spec.slurm is None or (phase is not None and phase.is_final):
            return None
        return self._sight.agents.of(resource.namespace, spec.slurm.site)

    def _group(self, resource: Resource, pods: tuple[PodView, ...]) -> GroupView | None:
        """Return what the coordinator of the newest attempt says, and have it asked from now on."""
        running = [
            pod
            for pod in pods
            if pod.role == names.ROLE_COORDINATOR and pod.phase == "Running" and pod.address and pod.deletion_s is None
        ]
        newest = max(running, key=lambda pod: pod.attempt, default=None)
        target = Target(newest.address, self._sight.coordinator_port, newest.attempt) if newest is not None else None
        return self._sight.progress.follow(resource.uid, target)

    def _may_make(self, resource: Resource, decision: Decision) -> bool:
        """Tell whether objects may be made in a look that writes no status, which would have shown that it is so.

        Children of a resource that is deleted may be seen to go before the resource itself is.
        """
        if not any(isinstance(action, Ensure) for action in decision.actions):
            return True
        self._read_again(resource)
        now = self._sight.resources.get(resource.uid)
        return now is not None and "deletionTimestamp" not in now["metadata"]

    def _write_status(self, raw: dict[str, Any], resource: Resource, patch: dict[str, Any]) -> bool:
        """Write the status; False when the resource has changed or is gone: then nothing may follow."""
        body = {
            "metadata": {"resourceVersion": raw["metadata"].get("resourceVersion"), "uid": resource.uid},
            "status": patch,
        }
        try:
            written = self._api.patch(
                FINETUNE,
                resource.namespace,
                resource.name,
                body,
                manager=names.FIELD_MANAGER_STATUS,
                subresource="status",
            )
        except ApiProblem as problem:
            if problem.code not in (404, 409):
                raise
            self._read_again(resource)
            return False
        self._wrote_s[resource.uid] = self._now_s()
        self._turns_s.pop(resource.uid, None)
        self._sight.resources.put(written)
        self._written(raw["status"], written.get("status") or {}, now_s=self._now_s())
        return True

    def _read_again(self, resource: Resource) -> None:
        """Read a resource of which a newer version exists than the one that the watch has shown."""
        try:
            found = self._api.get(FINETUNE, resource.namespace, resource.name)
        except ApiProblem as problem:
            if problem.code != 404:
                raise
            found = {}
        if (found.get("metadata") or {}).get("uid") == resource.uid:
            self._sight.resources.put(found)
        else:
            self._sight.resources.remove(resource.uid)

    def _act(self, resource: Resource, decision: Decision) -> Outcome:
        """Do the actions in order and tell the notes, also those of a status whose actions then fail."""
        again_s = RESYNC_S if decision.requeue_s is None else min(RESYNC_S, decision.requeue_s)
        try:
            for action in decision.actions:
                self._do(resource, action)
        except Refused as refused:
            _log.warning("%s/%s: %s", resource.namespace, resource.name, refused)
            self._notes.tell(resource, Note("Warning", refused.reason, str(refused)))
            return Outcome(None, failed=True)
        except Withdrawn:
            return Outcome(0.0)
        finally:
            for note in decision.notes:
                self._notes.tell(resource, note)
        return Outcome(again_s)

    def _do(self, resource: Resource, action: Action) -> None:
        try:
            self._effects.apply(resource, action)
        except UserError as error:
            raise Refused("NotPlannable", str(error)) from None
