"""A namespace with an operator and a queue of the real Kueue."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from control_plane import ControlPlane, kubectl
from coordinator_site import FakeCoordinator, progress, says
from kueue import make_queue
from operator_site import Site

from sam3ft_launch.kubernetes import kinds

QUEUE = "gpu"
URGENT = "urgent"
"""PriorityClass above that of runs that name none."""


class QueueSite(Site):
    """A site with a LocalQueue of two accelerators, whose quota goes to runs of a higher priority."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path, *, queue: str = QUEUE) -> None:
        """Make account, queue and PriorityClass."""
        super().__init__(plane, namespace, folder)
        make_queue(plane, namespace, accelerators=2, name=queue, preempts=True)
        urgent = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": URGENT}}
        kubectl(plane, "apply", "--server-side", "-f", "-", stdin=json.dumps({**urgent, "value": 1000}))

    @classmethod
    @contextmanager
    def fresh(cls, plane: ControlPlane, folder: Path) -> "Iterator[QueueSite]":
        """Make a namespace with a queue for a while."""
        name = f"queue-{uuid.uuid4().hex[:10]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        plane.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        with cls(plane, name, folder) as found:
            yield found
        kubectl(plane, "delete", "namespace", name, "--wait=false")

    def queue(self, name: str, *, nodes: int, queued: bool = True, **spec: Any) -> str:
        """Apply a resource of nodes with one accelerator each, let its check pass, and return its uid."""
        workers = {"nodes": nodes, "maxNodes": 4, "gpusPerNode": 1, **spec.pop("workers", {})}
        training = {"globalBatchSize": 8, "maxSteps": 10}
        wish = {"queue": {"localQueue": QUEUE}} if queued else {}
        uid = self.apply(name, workers=workers, training=training, **wish, **spec)["metadata"]["uid"]
        self.pass_check(uid)
        return str(uid)

    def train(self, uid: str, coordinator: FakeCoordinator, *, nodes: int) -> list[dict[str, Any]]:
        """Wait until so many workers of a run are there, let its coordinator say that they train, and return them."""
        workers = self.wait_for_pods(uid, role="worker", count=nodes)
        [lead] = self.wait_for_pods(uid, role="coordinator", count=1)
        attempt = int(lead["metadata"]["labels"]["sam3ft.dev/attempt"])
        coordinator.answer = says(progress(attempt=attempt, nodes=nodes))
        coordinator.stands_for(self, lead)
        return workers

    def workloads(self, uid: str) -> list[dict[str, Any]]:
        """Return the Workloads of the Job of a run's workers."""
        selector = f"kueue.x-k8s.io/job-uid={self.job(uid)['metadata']['uid']}"
        return list(self.api.list(kinds.WORKLOAD, self.namespace, {"labelSelector": selector})["items"])
