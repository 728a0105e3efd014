"""The objects of a run, as the cluster's settings want them."""

from collections.abc import Mapping, Sequence
from typing import Any

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.spec import API_VERSION, KIND, SAM3FineTune
from sam3ft_launch.kubernetes.objects.secret import with_key
from sam3ft_launch.kubernetes.plan import plan_on_cluster
from sam3ft_launch.kubernetes.render import render
from sam3ft_launch.kubernetes.settings import ClusterSettings
from sam3ft_operator.decision import Ensure, Part
from sam3ft_operator.observed import Resource


class ClusterRenderer:
    """Renders parts; pure, and safe for many threads."""

    def __init__(self, settings: ClusterSettings) -> None:
        """Keep the settings, which hold for every run."""
        self._settings = settings

    def objects(self, resource: Resource, wanted: Ensure) -> Sequence[Mapping[str, Any]]:
        """Return the objects of a part in the order in which they are made.

        Raises:
            InvalidConfig: the resource cannot be planned on this cluster; the message names the field.
        """
        if resource.spec is None:
            raise InvalidConfig(resource.refusal)
        workers = resource.spec.workers
        # The check of the data set does not depend on the number of nodes, but a plan has one.
        nodes = workers.nodes if wanted.part is Part.PREFLIGHT else wanted.nodes
        plan = plan_on_cluster(
            SAM3FineTune.model_validate(
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "metadata": {"name": resource.name, "namespace": resource.namespace},
                    "spec": resource.spec,
                }
            ),
            uid=resource.uid,
            attempt=wanted.attempt,
            nodes=nodes,
            excluded_nodes=wanted.excluded_nodes,
            settings=self._settings,
        )
        return render(plan, self._settings).parts[wanted.part.value]

    def with_key(self, secret: Mapping[str, Any], key: bytes) -> dict[str, Any]:
        """Return the Secret of a run with its key in it."""
        return with_key(dict(secret), key)
