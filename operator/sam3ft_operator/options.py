"""The command line of the operator."""

import argparse
import os
import re
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.problems import find_problems, invalid_config
from sam3ft_api.profiles import parse_worker_profiles
from sam3ft_api.redact import shown
from sam3ft_api.storage import parse_profiles
from sam3ft_api.yaml import read_text, read_yaml
from sam3ft_launch.kubernetes.api import ApiSettings
from sam3ft_launch.kubernetes.settings import ClusterSettings
from sam3ft_operator.lease import LeaseSettings
from sam3ft_operator.rbac import DEFAULT_NAMESPACE, LEASE_NAME
from sam3ft_operator.resync import RESYNC_S

ENV_POD_NAMESPACE = "POD_NAMESPACE"
"""Namespace of the operator's own pod."""


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that the operator is told.

    Attributes:
        namespace: of the resources; empty for all namespaces.
        api: how the API server is reached.
        lease: which Lease elects.
        cluster: settings that objects are rendered with.
        metrics_host: address of probes and metrics.
        metrics_port: port of them; 0 takes a free one.
        workers: threads that look at runs.
        resync_s: between two complete lists of every kind, at most.
        verbose: debug messages.
    """

    namespace: str
    api: ApiSettings
    lease: LeaseSettings
    cluster: ClusterSettings
    metrics_host: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from outside the pod
    metrics_port: int = 8080
    workers: int = 8
    resync_s: float = RESYNC_S
    verbose: bool = False


def parse(arguments: Sequence[str] | None = None, *, environ: Mapping[str, str] = os.environ) -> Options:
    """Return the options.

    Args:
        arguments: of the command line; None takes this process's.
        environ: for the namespace of the operator's pod.

    Raises:
        InvalidConfig: a file cannot be read, or says something that it must not.
        SystemExit: with code 2, after a message, for arguments that do not exist; with 0 after --help.
    """
    own_namespace = environ.get(ENV_POD_NAMESPACE) or DEFAULT_NAMESPACE
    given = _parser(own_namespace).parse_args(arguments)
    host, colon, port = given.metrics_listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise InvalidConfig(f"--metrics-listen {shown(given.metrics_listen)}: expected HOST:PORT, as 0.0.0.0:8080")
    return Options(
        namespace="" if given.all_namespaces else given.namespace,
        api=ApiSettings(
            kubeconfig=given.kubeconfig, qps=given.qps, burst=2 * given.qps, connections=given.workers + 16
        ),
        lease=LeaseSettings(
            namespace=given.lease_namespace,
            name=given.lease_name,
            # The host's name is for people; the rest keeps a restarted pod of the same name apart from its past self.
            identity=f"{socket.gethostname()[:200]}_{uuid.uuid4().hex[:12]}",
        ),
        cluster=_cluster(given),
        metrics_host=host.strip("[]") or "0.0.0.0",  # noqa: S104 - as above
        metrics_port=int(port),
        workers=given.workers,
        resync_s=given.resync_seconds,
        verbose=given.verbose,
    )


def _parser(own_namespace: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sam3ft_operator", description="Runs SAM3FineTune resources.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--namespace", type=_namespace, help="look after the resources of one namespace")
    where.add_argument("--all-namespaces", action="store_true", help="look after all resources of the cluster")
    parser.add_argument("--operator-image", required=True, metavar="IMAGE", help="image of the coordinators")
    parser.add_argument("--trainer-image", default="", metavar="IMAGE", help="image of workers that name none")
    parser.add_argument("--storage-profiles", type=Path, metavar="FILE", help="YAML of storage profiles")
    parser.add_argument("--worker-profiles", type=Path, metavar="FILE", help="YAML of worker profiles")
    parser.add_argument(
        "--cluster-settings",
        type=Path,
        metavar="FILE",
        help="YAML of the other settings that objects are rendered with",
    )
    parser.add_argument("--lease-namespace", default=own_namespace, metavar="NS", help="default: %(default)s")
    parser.add_argument("--lease-name", default=LEASE_NAME, metavar="NAME", help="default: %(default)s")
    parser.add_argument("--metrics-listen", default="0.0.0.0:8080", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: the pod's own account, else the user's")
    parser.add_argument("--workers", type=_count, default=8, metavar="N", help="threads (default: %(default)s)")
    parser.add_argument(
        "--qps",
        type=_count,
        default=200,
        metavar="N",
        help="requests a second to the API server (default: %(default)s)",
    )
    parser.add_argument(
        "--resync-seconds",
        type=_count,
        default=int(RESYNC_S),
        metavar="N",
        help="between two complete lists of every kind, at most (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="log debug messages")
    return parser


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a namespace")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 10000")
    return int(text)


def _cluster(given: argparse.Namespace) -> ClusterSettings:
    content = _mapping(given.cluster_settings)
    content |= {"operator_image": given.operator_image, "trainer_image": given.trainer_image}
    content.setdefault("operator_namespace", given.lease_namespace)
    if given.storage_profiles is not None:
        text = read_text(given.storage_profiles)
        parse_profiles(text, name=str(given.storage_profiles))
        content["storage_profiles"] = text
    if given.worker_profiles is not None:
        name = str(given.worker_profiles)
        content["worker_profiles"] = parse_worker_profiles(read_text(given.worker_profiles), name=name)
    try:
        return ClusterSettings.model_validate(content)
    except ValidationError as error:
        raise invalid_config(find_problems(error, ClusterSettings), source="settings of the cluster") from None


def _mapping(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    content = read_yaml(read_text(path), name=str(path)).data
    if not isinstance(content, dict):
        raise InvalidConfig(f"{path}: {shown(content)} is no mapping of settings of the cluster")
    return dict(content)
