"""What NetworkPolicies become as rules of nftables."""

from typing import Any

import pytest
from policies import ruleset


def pod(
    name: str, address: str, *, namespace: str = "a", node: str = "real-0", phase: str = "Running"
) -> dict[str, Any]:
    container = {"name": "main", "ports": [{"name": "web", "containerPort": 8080}]}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    return {
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": [container]},
        "status": {"podIP": address, "phase": phase},
    }


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "a"}, "spec": {"podSelector": {"matchLabels": {"app": "web"}}, **spec}}


WEB, ASKS, OTHER = (
    pod("web", "10.1.1.2"),
    pod("asks", "10.1.2.3", node="real-1"),
    pod("other", "10.1.1.4", namespace="b"),
)
NAMESPACES = [{"metadata": {"name": "a"}}, {"metadata": {"name": "b", "labels": {"team": "b"}}}]


def rules(
    *policies: dict[str, Any], pods: tuple[dict[str, Any], ...] = (WEB, ASKS, OTHER), node: str = "real-0"
) -> str:
    return ruleset(policies, pods, NAMESPACES, node)


def test_a_peer_of_the_namespace_reaches_a_port_by_name_and_all_else_is_dropped_and_counted() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "asks"}}}
    found = rules(policy(ingress=[{"from": [peer], "ports": [{"port": "web"}]}]))

    chain = "chain ingress_10_1_1_2 {\nip saddr 10.1.2.3 ip daddr 10.1.1.2 tcp dport 8080 accept\ncounter drop\n}"
    assert chain in found
    assert "chain egress_10_1_1_2" not in found


def test_a_selector_of_namespaces_reaches_into_others_and_one_of_pods_does_not() -> None:
    there = {"namespaceSelector": {"matchLabels": {"team": "b"}}}
    here = {"podSelector": {"matchLabels": {"app": "other"}}}

    assert "ip saddr 10.1.1.4 accept" in rules(policy(ingress=[{"from": [there]}]))
    assert "10.1.1.4" not in rules(policy(ingress=[{"from": [here]}]))


def test_egress_to_blocks_and_ports() -> None:
    block = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}
    six = {"ipBlock": {"cidr": "::/0"}}
    found = rules(
        policy(policyTypes=["Egress"], egress=[{"to": [block, six]}, {"ports": [{"protocol": "UDP", "port": 53}]}])
    )

    accepted = "ip daddr 0.0.0.0/0 ip daddr != 10.0.0.0/8 accept\nudp dport 53 accept\ncounter drop"
    assert f"chain egress_10_1_1_2 {{\n{accepted}\n}}" in found
    assert "chain ingress_10_1_1_2" not in found


def test_only_pods_of_the_node_that_still_run_are_guarded() -> None:
    closed = policy(ingress=[])

    assert "chain ingress_10_1_1_2 {\ncounter drop\n}" in rules(closed)
    assert "10_1_1_2" not in rules(closed, node="real-1")
    assert "10_1_1_2" not in rules(closed, pods=(pod("web", "10.1.1.2", phase="Failed"),))


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ({"ingress": [{"ports": [{"port": 1, "endPort": 9}]}]}, "endPort"),
        ({"ingress": [{"ports": [{"port": 1, "protocol": "SCTP"}]}]}, "SCTP"),
        ({"ingress": [{"from": [{"podSelector": {"matchExpressions": [{"key": "a"}]}}]}]}, "matchExpressions"),
    ],
)
def test_what_is_not_understood_is_refused(spec: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        rules(policy(**spec))
