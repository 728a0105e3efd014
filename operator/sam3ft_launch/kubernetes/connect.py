"""From a user's kubeconfig to the runs of a namespace."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.config import kube_config
from yaml import YAMLError

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.kubernetes.api import Api, ApiSettings
from sam3ft_launch.kubernetes.runs import ClusterRuns

DEFAULT_NAMESPACE = "default"
_QPS = 50.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Of the pod in which this process runs, if it does."""


def connect(*, kubeconfig: str | None, context: str | None, namespace: str | None) -> ClusterRuns:
    """Return the runs that the user's kubeconfig leads to; nothing is asked yet.

    Args:
        kubeconfig: path; None takes KUBECONFIG, `~/.kube/config`, or inside a pod its own account.
        context: of the kubeconfig; None takes the current one.
        namespace: of the runs; None takes the context's, else `default`.

    Raises:
        InvalidConfig: there are no credentials.
    """
    kubeconfig = kubeconfig or _of_user(os.environ)
    settings = ApiSettings(
        kubeconfig=kubeconfig, context=context or "", agent="sam3ft", qps=_QPS, burst=2 * _QPS, connections=4
    )
    try:
        api = Api(settings)
    except RuntimeError as error:
        raise InvalidConfig(str(error)) from None
    except (TypeError, ValueError, AttributeError, YAMLError) as error:
        # The client takes whatever a kubeconfig holds for what it should hold.
        where = kubeconfig or "~/.kube/config"
        raise InvalidConfig(f"{where} is no kubeconfig ({type(error).__name__}: {error}); name another one") from None
    return ClusterRuns(api, namespace or _namespace_of(kubeconfig, context) or DEFAULT_NAMESPACE)


def _of_user(environ: Mapping[str, str]) -> str | None:
    """Return the user's own kubeconfig; None leaves it to the pod's account.

    Someone who works inside a pod, as in a notebook, and has a kubeconfig means that one; the operator has none and
    takes its account.
    """
    usual = Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config"
    return environ.get("KUBECONFIG") or (str(usual) if usual.is_file() else None)


def _namespace_of(kubeconfig: str | None, context: str | None) -> str:
    """Return the namespace of the context, or where there is no kubeconfig of the pod; empty when none is named.

    Raises:
        InvalidConfig: the kubeconfig is no such file.
    """
    if kubeconfig is None and context is None:
        return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.is_file() else ""
    library: Any = kube_config  # published without types
    try:
        merged = library.KubeConfigMerger(kubeconfig or library.KUBE_CONFIG_DEFAULT_LOCATION).config
        name = context or merged["current-context"]
        return str(merged["contexts"].get_with_name(name)["context"].safe_get("namespace") or "")
    except (config.ConfigException, OSError, TypeError, AttributeError) as error:
        raise InvalidConfig(f"the kubeconfig has no context to act in: {error}; name one by --context") from None
