"""A run as `decide` sees it, built step by step: what was written is what is read next."""

from dataclasses import dataclass, field, replace
from typing import Any

from sam3ft_api import names
from sam3ft_api.spec import SAM3FineTuneSpec
from sam3ft_api.status import ConditionType, DatasetStatus, Phase, SAM3FineTuneStatus
from sam3ft_api.termination import Termination
from sam3ft_api.worker import Progress
from sam3ft_operator.decide import decide
from sam3ft_operator.decision import Decision, Ensure, Note, Part
from sam3ft_operator.observed import Children, GroupView, JobView, PodView, Resource

START_S = 1_800_000_000.0
RUN = "cells"
CHECK_OBJECTS = frozenset(
    {("ConfigMap", names.config_name(RUN)), ("NetworkPolicy", names.policy_name(RUN, names.ROLE_PREFLIGHT))}
)
"""What is made with the check."""
OBJECTS = frozenset(
    {
        ("ConfigMap", names.config_name(RUN)),
        ("Service", names.coordinator_name(RUN)),
        ("NetworkPolicy", names.policy_name(RUN, names.ROLE_WORKER)),
        ("NetworkPolicy", names.policy_name(RUN, names.ROLE_COORDINATOR)),
    }
)
"""What exists of a run that trains, besides Jobs and pods."""


def spec_of(**sections: Any) -> SAM3FineTuneSpec:
    """Return a valid spec; sections of it as keywords."""
    document: dict[str, Any] = {
        "model": {"uri": "preset:tiny"},
        "data": {"uri": "s3://d/x"},
        "checkpoint": {"uri": "s3://r/x"},
        "training": {"globalBatchSize": 64},
        "workers": {"nodes": 2, "maxNodes": 4},
    }
    return SAM3FineTuneSpec.model_validate(document | sections)


@dataclass
class Run:
    """One run over many looks.

    Attributes:
        spec: the wish.
        status: as last written.
        children: what exists.
        now_s: the clock.
        notes: all events so far.
    """

    spec: SAM3FineTuneSpec = field(default_factory=spec_of)
    status: SAM3FineTuneStatus = field(default_factory=SAM3FineTuneStatus)
    children: Children = field(default_factory=Children)
    now_s: float = START_S
    generation: int = 1
    is_deleted: bool = False
    deleted_s: float | None = None
    is_held: bool = False
    refusal: str = ""
    notes: list[Note] = field(default_factory=list)

    def look(self) -> Decision:
        """Decide once, write the status, and check that deciding again on it changes and tells nothing."""
        decision = self._decide(self.status)
        again = self._decide(SAM3FineTuneStatus.model_validate_json(decision.status.model_dump_json()))
        assert decision.requeue_s != 0.0
        assert decision.status == again.status
        assert () == again.notes
        assert decision.actions == again.actions
        self.status = decision.status
        self.notes += decision.notes
        return decision

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    def change(self, **sections: Any) -> None:
        """Edit the spec."""
        document = self.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        self.spec = SAM3FineTuneSpec.model_validate(document | sections)
        self.generation += 1

    def has(self, **changes: Any) -> None:
        """Change what exists."""
        self.children = replace(self.children, **changes)

    def condition(self, type_: ConditionType) -> tuple[str, str, str]:
        """Return status, reason and message of a condition."""
        found = next(c for c in self.status.conditions if c.type is type_)
        return found.status, found.reason, found.message

    def _decide(self, status: SAM3FineTuneStatus) -> Decision:
        spec = None if self.refusal else self.spec
        resource = Resource(
            "ns", RUN, "uid-1", self.generation, START_S, spec, self.refusal, status,
            is_deleted=self.is_deleted, deleted_s=self.deleted_s, is_held=self.is_held,
        )  # fmt: skip
        return decide(resource, self.children, now_s=self.now_s)


def job(attempt: int, **fields: Any) -> JobView:
    """Return the Job of an attempt's workers."""
    known = {"parallelism": 2, "completions": 2, "created_s": START_S} | fields
    return JobView(names.worker_job_name(RUN, attempt), f"job-{attempt}", names.ROLE_WORKER, attempt, **known)


def pod(attempt: int, index: int, **fields: Any) -> PodView:
    """Return a pod of an attempt's workers, running unless something else is said."""
    known = {"phase": "Running", "node": f"node-{index}", "created_s": START_S, "is_ready": True} | fields
    name = fields.pop("name", f"{RUN}-{attempt}-{index}-{len(fields)}")
    return PodView(
        **{"name": name, "uid": name, "role": names.ROLE_WORKER, "attempt": attempt, "index": index, **known}
    )


def failed_pod(
    attempt: int, index: int, code: int, *, word: bool = True, at_s: float = START_S, **fields: Any
) -> PodView:
    """Return a pod that ended with a code, with its last word or without."""
    said = Termination(code=code, reason="Whatever", message=f"it said {code}", rank=index, step=90, checkpoint_step=80)
    known = {
        "phase": "Failed", "exit_code": code, "reason": "Error", "finished_s": at_s, "is_ready": False,
        "termination": said if word else None, "name": f"{RUN}-{attempt}-{index}-{code}-{at_s:.0f}",
    }  # fmt: skip
    return pod(attempt, index, **(known | fields))


def coordinator(attempt: int, **fields: Any) -> PodView:
    """Return the coordinator of an attempt."""
    known = {"phase": "Running", "is_ready": True, "address": "10.0.0.9", "created_s": START_S} | fields
    return PodView("coordinator", "coordinator-uid", names.ROLE_COORDINATOR, attempt, **known)


def group(attempt: int, *, step: int = 100, **fields: Any) -> GroupView:
    """Return what a coordinator says of a group of two that trains."""
    told = Progress(
        state="training", step=step, total_steps=400, epoch=1.0, eta_s=600.0, images_per_s=64.0, loss=1.25,
        best_metric="bbox_AP", best_value=0.5, best_step=80, last_step_unix_s=START_S,
    )  # fmt: skip
    known = {
        "state": "running",
        "ready_nodes": 2,
        "known_nodes": 2,
        "rounds": 1,
        "commit_step": 80,
        "progress": told,
        "read_s": START_S,
    }
    return GroupView(attempt=attempt, **(known | fields))


def check_job(**fields: Any) -> JobView:
    """Return the Job that checks the data set."""
    known = {"uid": "check-1", "created_s": START_S} | fields
    return JobView(names.preflight_name(RUN), role=names.ROLE_PREFLIGHT, **known)


def check_pod(code: int, **fields: Any) -> PodView:
    """Return the pod of the check, ended with a code and a word about it."""
    dataset = DatasetStatus(images=9, annotations=30, categories=2) if code == 0 else None
    word = Termination(
        code=code, reason="Whatever", message="" if code == 0 else "train has no images", dataset=dataset
    )
    known = {"phase": "Failed" if code else "Succeeded", "exit_code": code, "termination": word, "created_s": START_S}
    return PodView("check", "check-pod", names.ROLE_PREFLIGHT, **(known | fields))


def checked(run: Run) -> Run:
    """Let the check of the data set pass; the next look sees it."""
    run.look()
    run.has(
        jobs=(check_job(is_complete=True, created_s=run.now_s),),
        pods=(check_pod(0, created_s=run.now_s),),
        objects=CHECK_OBJECTS,
    )
    return run


def started(run: Run | None = None) -> Run:
    """Let the first attempt be opened, and its children be made."""
    run = checked(run or Run())
    decision = run.look()
    assert {Ensure(Part.GROUP, 1), Ensure(Part.WORKERS, 1, nodes=run.spec.workers.nodes)} == set(decision.actions)
    make_children(run, 1)
    return run


def make_children(run: Run, attempt: int) -> None:
    """Let everything of an attempt exist and run, and nothing else."""
    nodes = run.spec.workers.nodes
    run.has(
        jobs=(job(attempt, parallelism=nodes, completions=nodes, active=nodes),),
        pods=(*(pod(attempt, index) for index in range(nodes)), coordinator(attempt)),
        objects=OBJECTS,
        group=group(attempt),
    )


def running(spec: SAM3FineTuneSpec | None = None) -> Run:
    """Return a run of which the first attempt trains."""
    run = started(Run(spec) if spec is not None else None)
    run.look()
    assert Phase.RUNNING is run.status.phase
    return run
