"""Nodes that kwok plays, and what their pods say."""

from pathlib import Path
from typing import Any

PLAYED = "play.sam3ft.dev/node"
"""Label of the nodes that kwok plays; without it a node falls silent, as one does whose power is gone."""


def pod_logs(file: Path) -> dict[str, Any]:
    """Return what tells kwok the log of every pod."""
    return {
        "kind": "ClusterLogs",
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "metadata": {"name": "every-pod"},
        "spec": {"logs": [{"logsFile": str(file), "follow": True}]},
    }


def is_ready(node: dict[str, Any]) -> bool:
    """Tell whether a node says that it is ready."""
    conditions = node["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def node_named(name: str) -> dict[str, Any]:
    """Return a node with 64 CPU, 512Gi and 8 nvidia.com/gpu."""
    size = {"cpu": "64", "memory": "512Gi", "pods": "1000", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "8"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", PLAYED: "yes"},
        },
        "status": {"allocatable": size, "capacity": size},
    }
