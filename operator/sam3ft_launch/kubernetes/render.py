"""From a plan to every object that one attempt needs: pure, so that it can be shown and compared before it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sam3ft_api.plan import JobPlan
from sam3ft_api.profiles import find_profile
from sam3ft_launch.kubernetes.manifest import to_yaml
from sam3ft_launch.kubernetes.objects.config_map import run_config_map
from sam3ft_launch.kubernetes.objects.coordinator_pod import coordinator_pod
from sam3ft_launch.kubernetes.objects.network_policies import coordinator_policy, preflight_policy, worker_policy
from sam3ft_launch.kubernetes.objects.preflight_job import preflight_job
from sam3ft_launch.kubernetes.objects.secret import KEY_FIELD, PLACEHOLDER, token_secret
from sam3ft_launch.kubernetes.objects.service import coordinator_service
from sam3ft_launch.kubernetes.objects.worker_job import worker_job
from sam3ft_launch.kubernetes.settings import ClusterSettings

ApiObject = dict[str, Any]
"""An object of the Kubernetes API as plain JSON."""
PARTS = ("preflight", "group", "workers")
"""Names of the parts, in the order in which they are made."""


@dataclass(frozen=True, slots=True)
class KubernetesSubmission:
    """Every object of one attempt.

    Attributes:
        uid: identity of the run.
        attempt: its number.
        parts: `preflight`, `group` and `workers`, each with its objects in the order in which they are created.
    """

    uid: str
    attempt: int
    parts: Mapping[str, tuple[ApiObject, ...]]

    @property
    def key(self) -> tuple[str, int]:
        """(uid, attempt): what makes `submit` idempotent."""
        return (self.uid, self.attempt)

    @property
    def objects(self) -> tuple[ApiObject, ...]:
        """All objects, in the order in which they are created."""
        return tuple(thing for part in PARTS for thing in self.parts[part])

    def __str__(self) -> str:
        """Return all objects as YAML documents; values of Secrets are left out."""
        return to_yaml(_shown(thing) for thing in self.objects)


def render(plan: JobPlan, settings: ClusterSettings) -> KubernetesSubmission:
    """Return what one attempt needs; equal arguments give equal objects.

    What a pod needs is created before it: policies first, so that it is never without them.

    Args:
        plan: made by `plan_on_cluster` with the same settings.
        settings: of the cluster.

    Raises:
        InvalidConfig: the settings have no worker profile of the plan's name.
    """
    find_profile(settings.worker_profiles, plan.placement.profile)
    parts = {
        "preflight": (run_config_map(plan, settings), preflight_policy(plan, settings), preflight_job(plan, settings)),
        "group": (
            worker_policy(plan, settings),
            coordinator_policy(plan, settings),
            token_secret(plan),
            coordinator_service(plan),
            coordinator_pod(plan, settings),
        ),
        "workers": (worker_job(plan, settings),),
    }
    return KubernetesSubmission(plan.uid, plan.attempt, MappingProxyType(parts))


def _shown(thing: ApiObject) -> ApiObject:
    if thing["kind"] != "Secret":
        return thing
    rest = {name: value for name, value in thing.items() if name not in ("data", "stringData")}
    return {**rest, "stringData": {KEY_FIELD: PLACEHOLDER}}
