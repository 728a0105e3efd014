"""What preflight and workers share: the trainer image with the run's files, credentials, proxy and authorities."""

from dataclasses import dataclass, field
from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_api.profiles import ProxySpec, WorkerProfile
from sam3ft_api.worker import ENV_CREDENTIALS_DIR, ENV_DATA_CREDENTIALS_DIR, ENV_STORAGE_PROFILES
from sam3ft_launch.kubernetes.objects.config_map import STORAGE_FILE
from sam3ft_launch.kubernetes.objects.pod import (
    CA_DIR,
    CREDENTIALS_DIR,
    DATA_CREDENTIALS_DIR,
    RUN_DIR,
    WORK_DIR,
    variable,
)
from sam3ft_launch.kubernetes.settings import ClusterSettings

CONTAINER = "trainer"
"""Name of the one container of preflight and workers."""
CA_FILE = f"{CA_DIR}/ca.crt"
INSIDE_THE_CLUSTER = ".svc,.cluster.local,localhost,127.0.0.1"


@dataclass(frozen=True, slots=True)
class Mounts:
    """Volumes of a pod with the place of each in its container, and the variables that name the places."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    env: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, source: dict[str, Any], path: str, *, read_only: bool = False) -> None:
        """Mount one volume."""
        self.volumes.append({"name": name, **source})
        self.mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})})


def trainer_mounts(plan: JobPlan, profile: WorkerProfile, settings: ClusterSettings) -> Mounts:
    """Return volumes and variables that every pod with the trainer image has.

    Credentials are mounted as folders, because files are renewed while a pod runs and variables are not.
    """
    found = Mounts()
    found.add("tmp", {"emptyDir": {}}, "/tmp")  # noqa: S108 - the container's own volume
    found.add("work", {"emptyDir": {}}, WORK_DIR)
    found.add("run", {"configMap": {"name": names.config_name(plan.name)}}, RUN_DIR, read_only=True)
    for volume, secret, folder, name in (
        ("credentials", plan.storage.secret, CREDENTIALS_DIR, ENV_CREDENTIALS_DIR),
        ("data-credentials", plan.storage.data_secret, DATA_CREDENTIALS_DIR, ENV_DATA_CREDENTIALS_DIR),
    ):
        if secret:
            # One user runs in the pod, and the files belong to root: without the last bit nobody could read them.
            found.add(volume, {"secret": {"secretName": secret, "defaultMode": 0o444}}, folder, read_only=True)
            found.env.append(variable(name, folder))
    if settings.storage_profiles.strip():
        found.env.append(variable(ENV_STORAGE_PROFILES, f"{RUN_DIR}/{STORAGE_FILE}"))
    if profile.ca_config_map:
        source = {"configMap": {"name": profile.ca_config_map, "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
        found.add("ca", source, CA_DIR, read_only=True)
        found.env.extend(variable(name, CA_FILE) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"))
    found.env.append(variable("HOME", "/tmp"))  # noqa: S108 - the root is read-only, and libraries write there
    found.env.extend(proxy_variables(profile.proxy))
    return found


def proxy_variables(proxy: ProxySpec) -> list[dict[str, Any]]:
    """Return the variables of a proxy in both spellings, as libraries read either; none without a proxy."""
    addresses = {"http_proxy": proxy.http, "https_proxy": proxy.https}
    if not any(addresses.values()):
        return []
    direct = ",".join(part for part in (proxy.no_proxy.strip(","), INSIDE_THE_CLUSTER) if part)
    pairs = [(name, address) for name, address in (*addresses.items(), ("no_proxy", direct)) if address]
    return [variable(spelling, value) for name, value in pairs for spelling in (name, name.upper())]


def profile_variables(plan: JobPlan, taken: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the plan's own variables, without those that are set for the pod anyway."""
    names_taken = {entry["name"] for entry in taken}
    return [variable(name, value) for name, value in sorted(plan.env.items()) if name not in names_taken]
