"""The Service under which launchers and the operator find the coordinator of a run."""

from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_launch.kubernetes.objects.metadata import WHOLE_RUN, metadata, selector
from sam3ft_launch.kubernetes.settings import LAUNCHER_PORT, PROGRESS_PORT


def coordinator_service(plan: JobPlan) -> dict[str, Any]:
    """Return the Service; it selects by the resource's UID, so it never leads to another run of the same name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(plan, names.coordinator_name(plan.name), role=names.ROLE_COORDINATOR, attempt=WHOLE_RUN),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(plan, role=names.ROLE_COORDINATOR),
            # A coordinator that has just come back must be found before its first probe.
            "publishNotReadyAddresses": True,
            "ports": [
                {"name": "launchers", "port": LAUNCHER_PORT, "targetPort": "launchers", "protocol": "TCP"},
                {"name": "progress", "port": PROGRESS_PORT, "targetPort": "progress", "protocol": "TCP"},
            ],
        },
    }


def coordinator_address(plan: JobPlan) -> str:
    """Return HOST:PORT for launchers.

    The name is asked for anew at every connection. Service variables would need `enableServiceLinks`, which puts every
    Service of the namespace into the environment and slows the start of pods where there are thousands.
    """
    return f"{names.coordinator_name(plan.name)}.{plan.namespace}.svc:{LAUNCHER_PORT}"
