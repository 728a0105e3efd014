"""Who may talk to whom, asked of the policies as a network would ask them."""

import ipaddress
from typing import Any

import pytest
from objects_bench import SETTINGS, finetune, of_kind, pods, rendered, spec_with

from sam3ft_api.names import ROLE_COORDINATOR, ROLE_PREFLIGHT, ROLE_WORKER
from sam3ft_launch.kubernetes.settings import LAUNCHER_PORT, PROGRESS_PORT

OPERATOR = ("sam3ft-system", {"app.kubernetes.io/name": "sam3ft-operator"})
ROLES = (ROLE_PREFLIGHT, ROLE_COORDINATOR, ROLE_WORKER)
SETTINGS_WITH_PROMETHEUS = SETTINGS.model_copy(update={"prometheus_namespace_labels": {"team": "monitoring"}})
SUBMISSION = rendered(settings=SETTINGS_WITH_PROMETHEUS)
LABELS = {role: about["labels"] for role, about, _ in pods(SUBMISSION)}
NAMESPACES = {
    name: {"kubernetes.io/metadata.name": name, **({"team": "monitoring"} if name == "metrics" else {})}
    for name in ("lab", "sam3ft-system", "metrics", "other")
}
Pod = tuple[str, dict[str, str]]


def is_selected(peer: dict[str, Any], pod: Pod) -> bool:
    namespace, labels = pod
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        in_namespace = peer["namespaceSelector"]["matchLabels"].items() <= NAMESPACES[namespace].items()
    else:
        in_namespace = namespace == "lab"
    return in_namespace and peer.get("podSelector", {"matchLabels": {}})["matchLabels"].items() <= labels.items()


def has_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    return "ports" not in rule or {"protocol": protocol, "port": port} in rule["ports"]


def may(direction: str, role: str, pod: Pod, port: int, *, submission: Any = SUBMISSION, protocol: str = "TCP") -> bool:
    """Tell whether the policy of `role` lets the other pod in, or lets its own pods out to it."""
    spec = of_kind(submission, "NetworkPolicy", role)["spec"]
    peers = {"ingress": "from", "egress": "to"}[direction]
    assert ["Ingress", "Egress"] == spec["policyTypes"]
    return any(
        has_port(rule, port, protocol) and (peers not in rule or any(is_selected(peer, pod) for peer in rule[peers]))
        for rule in spec[direction]
    )


def reaches(role: str, address: str, *, submission: Any = SUBMISSION) -> bool:
    """Tell whether pods of a role may connect to an address outside the cluster."""
    place = ipaddress.ip_address(address)
    blocks = [
        peer["ipBlock"]
        for rule in of_kind(submission, "NetworkPolicy", role)["spec"]["egress"]
        for peer in rule.get("to", ())
        if "ipBlock" in peer
    ]
    return any(
        place in ipaddress.ip_network(block["cidr"])
        and not any(place in ipaddress.ip_network(hole) for hole in block.get("except", ()))
        for block in blocks
    )


def of_run(role: str) -> Pod:
    return ("lab", LABELS[role])


@pytest.mark.parametrize("role", ROLES)
def test_the_policy_of_a_role_selects_the_pods_of_that_role(role: str):
    selector = of_kind(SUBMISSION, "NetworkPolicy", role)["spec"]["podSelector"]["matchLabels"]

    assert [role] == [name for name, labels in LABELS.items() if selector.items() <= labels.items()]


def test_who_gets_in_is_exactly_this():
    visitors: dict[str, Pod] = {
        **{role: of_run(role) for role in ROLES},
        "other run": ("lab", {**LABELS[ROLE_WORKER], "sam3ft.dev/uid": "another"}),
        "stranger": ("lab", {"app": "x"}),
        "worker elsewhere": ("other", LABELS[ROLE_WORKER]),
        "operator": OPERATOR,
        "false operator": ("other", OPERATOR[1]),
        "neighbour of the operator": (OPERATOR[0], {"app": "x"}),
        "prometheus": ("metrics", {"app": "prometheus"}),
    }
    found = {
        (visitor, role, port)
        for visitor, pod in visitors.items()
        for role in ROLES
        for port in (LAUNCHER_PORT, PROGRESS_PORT, 29500)
        if may("ingress", role, pod, port)
    }

    assert {
        ("worker", "coordinator", LAUNCHER_PORT),
        ("operator", "coordinator", PROGRESS_PORT),
        ("prometheus", "coordinator", PROGRESS_PORT),
        ("worker", "worker", LAUNCHER_PORT),
        ("worker", "worker", PROGRESS_PORT),
        ("worker", "worker", 29500),
    } == found


def test_who_is_let_in_is_let_out_as_well():
    assert may("egress", ROLE_WORKER, of_run(ROLE_WORKER), 29500)
    assert may("egress", ROLE_WORKER, of_run(ROLE_COORDINATOR), LAUNCHER_PORT)
    assert not may("egress", ROLE_WORKER, of_run(ROLE_COORDINATOR), PROGRESS_PORT)
    assert not may("egress", ROLE_PREFLIGHT, of_run(ROLE_COORDINATOR), LAUNCHER_PORT)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_names_are_asked_for_wherever_they_are_answered(protocol: str):
    asked = [role for role in ROLES if may("egress", role, ("other", {"k8s-app": "dns"}), 53, protocol=protocol)]

    assert [ROLE_PREFLIGHT, ROLE_WORKER] == asked


def test_the_coordinator_opens_no_connection():
    assert [] == of_kind(SUBMISSION, "NetworkPolicy", ROLE_COORDINATOR)["spec"]["egress"]


def test_nobody_scrapes_where_no_prometheus_is_named():
    assert not may("ingress", ROLE_COORDINATOR, ("metrics", {}), PROGRESS_PORT, submission=rendered())


@pytest.mark.parametrize("role", [ROLE_PREFLIGHT, ROLE_WORKER])
def test_the_machine_s_identity_is_reached_only_by_runs_without_credentials(role: str):
    own = rendered(finetune(spec_with(storage={"secretRef": "w"})))

    for submission, expected in ((SUBMISSION, True), (own, False)):
        assert expected == reaches(role, "169.254.169.254", submission=submission)
        assert expected == reaches(role, "fd00:ec2::254", submission=submission)
        assert reaches(role, "52.1.2.3", submission=submission)
        assert reaches(role, "2600::1", submission=submission)


def test_an_administrator_says_where_the_stores_are():
    settings = SETTINGS.model_copy(
        update={"store_cidrs": ("10.1.0.0/16", "169.254.169.254/32"), "store_namespace_labels": {"team": "monitoring"}}
    )
    submission = rendered(finetune(spec_with(storage={"secretRef": "w"})), settings=settings)

    assert [True, False] == [
        reaches(ROLE_WORKER, address, submission=submission) for address in ("10.1.2.3", "10.2.0.1")
    ]
    assert may("egress", ROLE_WORKER, ("metrics", {}), 9000, submission=submission)
    assert not may("egress", ROLE_WORKER, ("other", {}), 9000, submission=submission)
    sealed = rendered(settings=SETTINGS.model_copy(update={"store_cidrs": ()}))
    assert not reaches(ROLE_WORKER, "10.1.2.3", submission=sealed)
