"""What makes a run's objects whole again: what is missing is made, what is dead is written off, what is old goes."""

from sam3ft_api import names
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.nodes import excluded_nodes
from sam3ft_operator.decision import Action, Delete, Ensure, FailPod, Part
from sam3ft_operator.observed import PodView

OVERDUE_S = 120.0
"""Seconds after the end of its grace at which a pod is taken for dead although nobody says that its node is."""


def remove_older(look: Look) -> tuple[Delete, ...]:
    """Return the deletions of every Job of workers but the open attempt's, and of coordinators of other attempts."""
    number = _number(look)
    jobs = [job for job in look.children.jobs if job.role == names.ROLE_WORKER and job.attempt != number]
    pods = [pod for pod in look.children.of_role(names.ROLE_COORDINATOR) if pod.attempt != number]
    return (
        *(Delete("Job", job.name, job.uid) for job in jobs if not job.is_deleted),
        *coordinators_gone(pods, now_s=look.now_s),
    )


def coordinators_gone(pods: list[PodView] | tuple[PodView, ...], *, now_s: float) -> tuple[Delete, ...]:
    """Return the deletions of these coordinators; by force where nobody will confirm their end.

    A coordinator has a fixed name, so that its successor waits until it is gone, and no Job that holds it back.
    """
    asked = tuple(Delete("Pod", pod.name, pod.uid) for pod in pods if pod.deletion_s is None)
    dead = tuple(Delete("Pod", pod.name, pod.uid, is_forced=True) for pod in pods if is_dead(pod, now_s=now_s))
    return (*asked, *dead)


def missing(look: Look) -> tuple[Action, ...]:
    """Return what makes config, group and Job of the open attempt whole again, however they came to be missing."""
    number, run = _number(look), look.resource.name
    mine = look.children.of_role(names.ROLE_COORDINATOR, attempt=number)
    made: list[Action] = []
    if ("ConfigMap", names.config_name(run)) not in look.children.objects:
        made.append(Ensure(Part.PREFLIGHT))
    made += coordinators_gone(
        [pod for pod in mine if pod.has_ended or is_dead(pod, now_s=look.now_s)], now_s=look.now_s
    )
    needed = {("Service", names.coordinator_name(run))}
    needed |= {("NetworkPolicy", names.policy_name(run, role)) for role in _GUARDED}
    if not needed <= look.children.objects or not look.children.of_role(names.ROLE_COORDINATOR):
        made.append(Ensure(Part.GROUP, attempt=number))
    has_job = any(job.role == names.ROLE_WORKER for job in look.children.jobs)
    if not has_job and not look.living:
        nodes = look.spec.workers.nodes
        made.append(Ensure(Part.WORKERS, attempt=number, nodes=nodes, excluded_nodes=excluded_nodes(look)))
    return tuple(made)


_GUARDED = (names.ROLE_WORKER, names.ROLE_COORDINATOR)


def written_off(look: Look) -> tuple[FailPod, ...]:
    """Return the pods of Jobs, of any attempt, that nobody will ever report as ended: their node does not answer."""
    pods = (*look.children.of_role(names.ROLE_WORKER), *look.children.of_role(names.ROLE_PREFLIGHT))
    return tuple(
        FailPod(pod.name, pod.uid, f"node {pod.node} does not answer")
        for pod in pods
        if is_dead(pod, now_s=look.now_s) and not pod.has_ended
    )


def is_dead(pod: PodView, *, now_s: float) -> bool:
    """Say whether a pod was asked to end and cannot confirm it: its node is lost, or its grace is long over."""
    return pod.deletion_s is not None and (pod.is_node_lost or now_s > pod.deletion_s + OVERDUE_S)


def _number(look: Look) -> int:
    return look.attempt.n if look.attempt is not None else 0
