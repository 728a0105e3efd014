"""Keeps the rules of every node as the cluster's NetworkPolicies say, a second behind them at most."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence

from control_plane import ControlPlane
from node import RealNode
from policies import TABLE, ruleset

_INTERVAL_S = 0.5


class PolicyWatch:
    """Loads a node's rules anew whenever policies, pods or namespaces have made them others.

    Rules that are loaded anew count from 0.
    """

    def __init__(self, plane: ControlPlane, nodes: Sequence[RealNode]) -> None:
        """Prepare; nothing is started."""
        self._plane, self._nodes, self._loaded = plane, nodes, dict[str, str]()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="policies")

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End; the rules stay as they are."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            try:
                self._load()
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                # The API server or a node may be the one that a test strikes; what stays wrong is said again.
                print(f"cluster: the rules of NetworkPolicies are not up to date: {error}", file=sys.stderr, flush=True)

    def _load(self) -> None:
        policies, pods, namespaces = (
            # From the API server's memory, as controllers read: this is asked often, beside runs that are timed.
            json.loads(self._plane.get(f"{path}?resourceVersion=0"))["items"]
            for path in ("/apis/networking.k8s.io/v1/networkpolicies", "/api/v1/pods", "/api/v1/namespaces")
        )
        for node in self._nodes:
            rules = ruleset(policies, pods, namespaces, node.name)
            if self._loaded.get(node.name) != rules:
                file = node.folder / "policies.nft"
                file.write_text(rules)
                node.inside("nft", "-f", str(file))
                self._loaded[node.name] = rules


def num_dropped(node: RealNode) -> int:
    """Return how many packets the rules of a node have dropped since they were loaded."""
    listed = json.loads(node.inside("nft", "-j", "list", "table", "ip", TABLE))["nftables"]
    rules = [part["rule"]["expr"] for part in listed if "rule" in part]
    return sum(it["counter"]["packets"] for rule in rules for it in rule if "counter" in it)
