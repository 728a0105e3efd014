"""The agent's own kubeconfig, as a file: one server, one namespace, one token."""

import base64
from pathlib import Path
from typing import Any

import yaml

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.files import write_atomically


def default_file(site: str, *, home: Path) -> Path:
    """Return where the kubeconfig of a site's agent lies unless a file is named."""
    return home / ".config" / "sam3ft" / f"slurm-agent-{site}.yaml"


def kubeconfig_of(*, server: str, authority: bytes | None, namespace: str, account: str, token: str) -> dict[str, Any]:
    """Return a kubeconfig with one context.

    Args:
        server: address of the API server.
        authority: certificate of its authority (PEM); None where the machine knows it.
        namespace: of the context.
        account: name of the user entry.
        token: of the account.
    """
    cluster: dict[str, Any] = {"server": server}
    if authority is not None:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [{"name": "agent", "context": {"cluster": "cluster", "user": account, "namespace": namespace}}],
        "current-context": "agent",
    }


def write_kubeconfig(path: Path, document: dict[str, Any]) -> None:
    """Write a kubeconfig that only its owner can read.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, yaml.safe_dump(document, sort_keys=False), mode=0o600)


def read_kubeconfig(path: Path) -> dict[str, Any]:
    """Return the document.

    Raises:
        InvalidConfig: it cannot be read, or is not one of an agent.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        _ = document["users"][0]["user"]["token"], document["contexts"][0]["context"]["namespace"]
    except OSError as error:
        raise InvalidConfig(
            f"{path} cannot be read: {error.strerror}; `sam3ft slurm-agent enroll` writes it; --kubeconfig names it"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        raise InvalidConfig(f"{path} is no kubeconfig of an agent; `sam3ft slurm-agent enroll` writes one") from None
    return dict(document)
