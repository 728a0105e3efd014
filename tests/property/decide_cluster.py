"""A small cluster for the model of what the operator decides: Job controller, kubelets, and what a coordinator says."""

from dataclasses import dataclass, replace
from typing import Any

from decide_bench import group, pod

from sam3ft_api import names
from sam3ft_api.messages import Verdict
from sam3ft_api.status import DatasetStatus
from sam3ft_api.termination import Termination
from sam3ft_operator.observed import Children, JobView, PodView


@dataclass
class Cluster:
    """What exists, and what a controller would do with it."""

    jobs: dict[str, JobView]
    pods: dict[str, PodView]
    objects: set[tuple[str, str]]
    serial: int = 0
    verdict: Verdict | None = None
    verdict_attempt: int = 0
    is_mute: bool = False

    def view(self, *, now_s: float, commit: int) -> Children:
        """Return what the watches show."""
        workers = [p for p in self.pods.values() if p.role == names.ROLE_WORKER and p.phase == "Running"]
        lead = next((p for p in self.pods.values() if p.role == names.ROLE_COORDINATOR and p.phase == "Running"), None)
        told = None
        if lead is not None and not self.is_mute:
            ready = sum(p.attempt == lead.attempt and p.deletion_s is None for p in workers)
            state = "running" if ready else "waiting"
            told = group(lead.attempt, state=state, ready_nodes=ready, commit_step=commit or None, read_s=now_s)
            assert told.progress is not None
            verdict = self.verdict if self.verdict_attempt == lead.attempt else None
            progress = told.progress.model_copy(update={"last_step_unix_s": now_s})
            told = replace(told, progress=progress, verdict=verdict, state="failed" if verdict else state)
        return Children(tuple(self.jobs.values()), tuple(self.pods.values()), frozenset(self.objects), told)

    def control(self, *, now_s: float) -> None:
        """Do what the Job controller and the kubelets do in a while."""
        for name, job in list(self.jobs.items()):
            mine = [p for p in self.pods.values() if p.role == job.role and p.attempt == job.attempt]
            if job.is_deleted:
                del self.jobs[name]
                self.remove(mine, now_s=now_s)
            elif job.is_suspended or job.has_ended:
                self.remove([p for p in mine if not p.has_ended], now_s=now_s)
                self.jobs[name] = replace(job, active=sum(not p.has_ended for p in mine))
            else:
                self.jobs[name] = self.driven(job, mine, now_s=now_s)
        owners = {(job.role, job.attempt) for job in self.jobs.values()}
        orphans = [p for p in self.pods.values() if p.index is not None and (p.role, p.attempt) not in owners]
        self.remove(orphans, now_s=now_s)
        self.remove([p for p in self.pods.values() if p.deletion_s is not None], now_s=now_s)

    def driven(self, job: JobView, mine: list[PodView], *, now_s: float) -> JobView:
        """Make what a Job at work lacks, and remove what it has too much of."""
        good = {p.index for p in mine if p.phase == "Succeeded"}
        if len(good) >= job.completions:
            return replace(job, is_complete=True, finished_s=now_s, succeeded=len(good), active=0)
        alive = {p.index for p in mine if not p.has_ended}
        for index in set(range(job.parallelism)) - alive - good:
            self.serial += 1
            name = f"p{self.serial}"
            self.pods[name] = pod(job.attempt, index, name=name, created_s=now_s, role=job.role)
        self.remove([p for p in mine if (p.index or 0) >= job.parallelism], now_s=now_s)
        return replace(job, active=job.parallelism - len(good))

    def remove(self, pods: list[PodView], *, now_s: float) -> None:
        """Ask pods to end, or let those go that were asked before and can; one on a silent node cannot."""
        for p in pods:
            if p.name not in self.pods:
                continue
            if p.has_ended or (p.deletion_s is not None and not p.is_node_lost):
                del self.pods[p.name]
            elif p.deletion_s is None:
                self.pods[p.name] = replace(p, deletion_s=now_s)

    def change_job(self, name: str, *, uid: str = "", **fields: Any) -> None:
        """Change a Job that may be gone, or be another by now: then nothing happens."""
        found = self.jobs.get(name)
        if found is not None and uid in ("", found.uid):
            self.jobs[name] = replace(found, **fields)

    def succeed(self, *roles: str, now_s: float) -> None:
        """Let all running pods of these roles end well."""
        for name, p in self.pods.items():
            if p.role in roles and p.phase == "Running":
                said = Termination(code=0, reason="Succeeded", dataset=DatasetStatus(images=1))
                ended = replace(p, phase="Succeeded", exit_code=0, finished_s=now_s, termination=said)
                self.pods[name] = ended
