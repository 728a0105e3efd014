"""Why pods do not start, in the cluster's own words: no node, no image, no quota, no Secret."""

from dataclasses import dataclass

from sam3ft_api.status import ConditionType, Phase
from sam3ft_operator.decide.course import Claim, Course
from sam3ft_operator.decide.look import Look
from sam3ft_operator.decide.words import cut
from sam3ft_operator.observed import JobView, PodView

LOOK_AGAIN_S = 30.0
GRACE_S = 10.0
"""A pod may take this long before its waiting is called a trouble: pulling and scheduling have their moments."""
CREATING_S = 28.0
"""The same for a container that is only being created: then an image is large, or a volume is missing. It is less than
`LOOK_AGAIN_S`, so that the second look tells it."""
_CREATING = "ContainerCreating"
_ADVICE = {
    "ErrImagePull": "check workers.image and the pull secrets of the worker profile",
    "ImagePullBackOff": "check workers.image and the pull secrets of the worker profile",
    "InvalidImageName": "correct workers.image",
    "CreateContainerConfigError": "create the Secret or ConfigMap that it names",
    "CreateContainerError": "see the node's kubelet",
    "Unschedulable": "free nodes, or lower workers.resources, gpusPerNode or nodeSelector",
    "QuotaExceeded": "free quota of the namespace, or ask for less",
    "PodsRefused": "ask the administrator which admission policy refuses them",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps pods from running.

    Attributes:
        reason: CamelCase word.
        message: the cluster's words, and what to do.
    """

    reason: str
    message: str

    def course(self, phase: Phase) -> Course:
        """Return a course that waits, and says for what."""
        return Course(phase, self.reason, self.message, claims=self.claims(), requeue_s=LOOK_AGAIN_S)

    def claims(self) -> tuple[Claim, ...]:
        """Return the conditions that say it."""
        return (
            Claim(ConditionType.SCHEDULED, "False", self.reason, self.message),
            Claim(ConditionType.DEGRADED, "True", self.reason, self.message),
        )


def start_trouble(look: Look, jobs: tuple[JobView, ...], pods: tuple[PodView, ...]) -> Trouble | None:
    """Return what keeps the pods of these Jobs from starting; None when nothing does, or not for long enough."""
    for job in jobs:
        if job.trouble:
            reason = "QuotaExceeded" if "quota" in job.trouble.lower() else "PodsRefused"
            return _trouble(reason, f"Job {job.name} cannot make pods: {job.trouble}")
    for pod in sorted(pods, key=lambda pod: pod.created_s):
        if pod.has_ended or pod.is_ready or pod.deletion_s is not None or look.now_s - pod.created_s < GRACE_S:
            continue
        if pod.waiting in _ADVICE:
            return _trouble(pod.waiting, f"Pod {pod.name}: {pod.waiting}: {pod.waiting_message}")
        if pod.unschedulable:
            return _trouble("Unschedulable", f"Pod {pod.name} has no node: {pod.unschedulable}")
        if pod.waiting == _CREATING and look.now_s - pod.created_s >= CREATING_S:
            return Trouble(_CREATING, _creating(look, pod))
    return None


def _creating(look: Look, pod: PodView) -> str:
    """A volume whose Secret does not exist is told in an event of the pod alone; what it needs is known."""
    storage = look.spec.storage
    secrets = [name for name in dict.fromkeys((storage.secret_ref, storage.data_secret_ref)) if name]
    needs = f" or Secret {' or '.join(secrets)} does not exist" if secrets else ""
    text = f"Pod {pod.name} on node {pod.node} is still being created: its image is being pulled{needs}"
    return cut(f"{text}; kubectl describe pod {pod.name} says which.", 1024)


def _trouble(reason: str, message: str) -> Trouble:
    return Trouble(reason, cut(f"{cut(message, 900).rstrip('. ')}; {_ADVICE[reason]}.", 1024))
