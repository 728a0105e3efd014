"""NetworkPolicies as rules of nftables: what a node lets its pods send and receive.

It proves that policies allow what is needed and no more, not that some network plugin is right. Requests of the node
itself (probes) are not filtered. `matchExpressions`, `endPort` and SCTP are refused, so that none is left out silently.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TABLE = "sam3ft-policies"
Document = Mapping[str, Any]


def ruleset(policies: Sequence[Document], pods: Sequence[Document], namespaces: Sequence[Document], node: str) -> str:
    """Return a script of nftables that replaces the rules of a node; what a pod's chain does not accept is counted.

    Args:
        policies: every NetworkPolicy of the cluster.
        pods: every pod; those without an address have no rules and are no peers yet.
        namespaces: every namespace, for their labels.
        node: whose pods are guarded.

    Raises:
        ValueError: a policy says what is not understood here.
    """
    placed = [pod for pod in pods if _address(pod) and not pod["spec"].get("hostNetwork")]
    labels = {it["metadata"]["name"]: it["metadata"].get("labels", {}) for it in namespaces}
    lines = [f"table ip {TABLE} {{}}", f"delete table ip {TABLE}", f"table ip {TABLE} {{"]
    for direction, own, priority in (("Egress", "saddr", 9), ("Ingress", "daddr", 10)):
        chains, jumps = [], []
        for pod in (pod for pod in placed if pod["spec"].get("nodeName") == node):
            mine = [policy for policy in policies if _isolates(policy, pod, direction)]
            if mine:
                chain = f"{direction.lower()}_{_address(pod).replace('.', '_')}"
                rules = [rule for policy in mine for rule in _rules(policy, pod, placed, labels, direction)]
                chains += [f"chain {chain} {{", *rules, "counter drop", "}"]
                jumps.append(f"ip {own} {_address(pod)} jump {chain}")
        hook = f"type filter hook forward priority {priority};"
        lines += [*chains, f"chain {direction.lower()} {{", hook, "ct state established,related accept", *jumps, "}"]
    return "\n".join([*lines, "}"]) + "\n"


def _isolates(policy: Document, pod: Document, direction: str) -> bool:
    spec = policy["spec"]
    kinds = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    same = policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and direction in kinds and _selects(spec.get("podSelector") or {}, pod["metadata"].get("labels", {}))


def _rules(
    policy: Document, pod: Document, pods: Sequence[Document], labels: Mapping[str, Mapping[str, str]], direction: str
) -> Iterable[str]:
    side, peers_side = ("saddr", "from") if direction == "Ingress" else ("daddr", "to")
    for rule in policy["spec"].get(direction.lower()) or []:
        for peer in rule.get(peers_side) or [None]:
            if peer is None:
                targets = [("", pods if direction == "Egress" else [pod])]
            elif "ipBlock" in peer:
                targets = [(match, [pod] if direction == "Ingress" else []) for match in _block(peer["ipBlock"], side)]
            else:
                found = [it for it in pods if _is_peer(peer, it, policy["metadata"]["namespace"], labels)]
                targets = [(f"ip {side} {_address(it)} ", [pod] if direction == "Ingress" else [it]) for it in found]
            for match, receivers in targets:
                for port in rule.get("ports") or [None]:
                    yield from (f"{match}{ports}accept" for ports in _ports(port, receivers))


def _block(block: Document, side: str) -> list[str]:
    """Return what matches a block of addresses; pods have none of version 6, so such a block matches nothing."""
    if ":" in block["cidr"]:
        return []
    return [f"ip {side} {block['cidr']}" + "".join(f" ip {side} != {cidr}" for cidr in block.get("except", [])) + " "]


def _is_peer(peer: Document, pod: Document, namespace: str, labels: Mapping[str, Mapping[str, str]]) -> bool:
    about = pod["metadata"]
    if (selector := peer.get("namespaceSelector")) is not None:
        there = _selects(selector, labels.get(about["namespace"], {}))
    else:
        there = about["namespace"] == namespace
    return there and _selects(peer.get("podSelector") or {}, about.get("labels", {}))


def _ports(port: Document | None, receivers: Sequence[Document]) -> list[str]:
    """Return what matches a port; a name is looked up at those that receive."""
    if port is None:
        return [""]
    protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
    if "endPort" in port or protocol not in {"tcp", "udp"}:
        raise ValueError(f"a port of a NetworkPolicy is {dict(port)}; here it is a TCP or UDP port without endPort")
    if number is None:
        return [f"meta l4proto {protocol} "]
    if isinstance(number, int):
        return [f"{protocol} dport {number} "]
    return [
        f"ip daddr {_address(pod)} {protocol} dport {named['containerPort']} "
        for pod in receivers
        for container in pod["spec"]["containers"]
        for named in container.get("ports", [])
        if named.get("name") == number and named.get("protocol", "TCP").lower() == protocol
    ]


def _selects(selector: Document, labels: Mapping[str, str]) -> bool:
    if selector.get("matchExpressions"):
        raise ValueError("a NetworkPolicy selects by matchExpressions; here it is matchLabels alone")
    wanted = (selector.get("matchLabels") or {}).items()
    return all(labels.get(name) == value for name, value in wanted)


def _address(pod: Document) -> str:
    ended = pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}
    return "" if ended else str(pod.get("status", {}).get("podIP", ""))
