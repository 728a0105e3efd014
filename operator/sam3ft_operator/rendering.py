"""The objects of a run, as the cluster's settings want them."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from sam3ft_api.convert import to_training_config
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.plan import JobPlan
from sam3ft_api.spec import API_VERSION, KIND, SAM3FineTune, SAM3FineTuneSpec
from sam3ft_launch.kubernetes.objects.secret import with_key
from sam3ft_launch.kubernetes.plan import plan_on_cluster
from sam3ft_launch.kubernetes.render import render
from sam3ft_launch.kubernetes.settings import ClusterSettings
from sam3ft_operator.decision import Ensure, Part
from sam3ft_operator.observed import Resource

_KEPT = 4096
"""Verdicts about specs that are kept: a run is looked at many times, and its spec hardly changes."""


class ClusterRenderer:
    """Renders parts; equal arguments give equal objects, and it is safe for many threads."""

    def __init__(self, settings: ClusterSettings) -> None:
        """Keep the settings, which hold for every run."""
        self._settings = settings
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def refusal(self, resource: Resource) -> str:
        """Return why a resource cannot be run here: a wrong setting, an unknown profile; empty when it can."""
        with self._lock:
            generation, why = self._verdicts.get(resource.uid, (-1, ""))
        if generation == resource.generation and resource.spec is not None:
            return why
        why = self._judge(resource)
        with self._lock:
            self._verdicts[resource.uid] = (resource.generation, why)
            self._verdicts.move_to_end(resource.uid)
            while len(self._verdicts) > _KEPT:
                self._verdicts.popitem(last=False)
        return why

    def _judge(self, resource: Resource) -> str:
        try:
            if resource.spec is not None and resource.spec.backend == "slurm":
                to_training_config(_finetune(resource, resource.spec), backend="slurm", uid=resource.uid)
            else:
                self._plan(resource, Ensure(Part.PREFLIGHT))
        except InvalidConfig as error:
            return str(error)
        return ""

    def objects(self, resource: Resource, wanted: Ensure) -> Sequence[Mapping[str, Any]]:
        """Return the objects of a part in the order in which they are made.

        Raises:
            InvalidConfig: the resource cannot be planned on this cluster; the message names the field.
        """
        return render(self._plan(resource, wanted), self._settings).parts[wanted.part.value]

    def _plan(self, resource: Resource, wanted: Ensure) -> JobPlan:
        if resource.spec is None:
            raise InvalidConfig(resource.refusal)
        workers = resource.spec.workers
        # The coordinator's gate waits for as many nodes as the run wants; the check does not depend on their number.
        nodes = wanted.nodes if wanted.part is Part.WORKERS else workers.nodes
        return plan_on_cluster(
            _finetune(resource, resource.spec),
            uid=resource.uid,
            attempt=wanted.attempt,
            nodes=nodes,
            excluded_nodes=wanted.excluded_nodes,
            settings=self._settings,
        )

    def with_key(self, secret: Mapping[str, Any], key: bytes) -> dict[str, Any]:
        """Return the Secret of a run with its key in it."""
        return with_key(dict(secret), key)


def _finetune(resource: Resource, spec: SAM3FineTuneSpec) -> SAM3FineTune:
    metadata = {"name": resource.name, "namespace": resource.namespace}
    return SAM3FineTune.model_validate({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})
