"""Kinds of objects that the operator reads and writes, with their places in the API."""

from dataclasses import dataclass

from sam3ft_api.spec import API_VERSION, KIND, PLURAL


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the API.

    Attributes:
        name: as an object's `kind` says.
        group_version: as an object's `apiVersion` says.
        plural: name of the collection in addresses and rules.
    """

    name: str
    group_version: str
    plural: str

    @property
    def group(self) -> str:
        """API group; empty for the core."""
        return self.group_version.rpartition("/")[0]

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Return the address of a collection, an object, or a part of it; an empty namespace means all of them."""
        root = f"/apis/{self.group_version}" if self.group else f"/api/{self.group_version}"
        place = f"/namespaces/{namespace}" if namespace else ""
        parts = [part for part in (name, subresource) if part]
        return "/".join([f"{root}{place}/{self.plural}", *parts])


FINETUNE = Kind(KIND, API_VERSION, PLURAL)
JOB = Kind("Job", "batch/v1", "jobs")
POD = Kind("Pod", "v1", "pods")
SERVICE = Kind("Service", "v1", "services")
CONFIG_MAP = Kind("ConfigMap", "v1", "configmaps")
SECRET = Kind("Secret", "v1", "secrets")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
EVENT = Kind("Event", "v1", "events")
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
SERVICE_ACCOUNT = Kind("ServiceAccount", "v1", "serviceaccounts")
ROLE = Kind("Role", "rbac.authorization.k8s.io/v1", "roles")
ROLE_BINDING = Kind("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings")
WORKLOAD = Kind("Workload", "kueue.x-k8s.io/v1beta1", "workloads")
"""What Kueue keeps for a Job; read and changed only for runs with a queue."""

CHILDREN = {kind.name: kind for kind in (JOB, POD, SERVICE, CONFIG_MAP, SECRET, NETWORK_POLICY)}
"""Kinds that a run owns, by name."""
WATCHED = (JOB, POD, SERVICE, CONFIG_MAP, NETWORK_POLICY)
"""Kinds that are watched. A Secret is never read."""
BY_METADATA = frozenset({SERVICE, CONFIG_MAP, NETWORK_POLICY})
"""Kinds of which only the existence matters: their watches carry metadata alone."""
