"""The operator's rules."""

import io
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import sam3ft_operator
from sam3ft_launch.kubernetes.kinds import CHILDREN
from sam3ft_operator.rbac import LEASE_NAME, RUN_RULES, lease_rules, main, manifests

VERBS = {resource: set(rule.verbs) for rule in RUN_RULES for resource in rule.resources}


def test_nothing_is_a_wildcard() -> None:
    for rule in [rule.to_rule() for rule in RUN_RULES] + lease_rules():
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]


def test_secrets_are_made_and_never_read() -> None:
    assert {"create", "delete"} == VERBS["secrets"]


@pytest.mark.parametrize(
    "resource", ["pods/exec", "nodes", "namespaces", "roles", "clusterroles", "customresourcedefinitions"]
)
def test_what_is_none_of_its_business_is_not_there(resource: str) -> None:
    assert resource not in VERBS


def test_a_role_is_bound_in_the_namespaces_of_runs_or_everywhere() -> None:
    some = manifests(namespace="ops", run_namespaces=["a", "b"])
    every = manifests(namespace="ops")

    assert ["a", "b", "ops"] == [it["metadata"]["namespace"] for it in some if it["kind"] == "RoleBinding"]
    assert [] == [it for it in some if it["kind"] == "ClusterRoleBinding"]
    assert 1 == len([it for it in every if it["kind"] == "ClusterRoleBinding"])


def test_the_lease_can_be_changed_by_its_name_alone() -> None:
    assert [["create"]] == [rule["verbs"] for rule in lease_rules() if "resourceNames" not in rule]
    assert [[LEASE_NAME]] == [rule["resourceNames"] for rule in lease_rules() if "update" in rule["verbs"]]


def test_the_manifests_are_printed_as_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["--namespace", "ops", "--run-namespace", "lab"])
    documents = list(YAML(typ="safe").load_all(io.StringIO(capsys.readouterr().out)))

    assert manifests(namespace="ops", run_namespaces=["lab"]) == documents


def test_every_kind_of_child_can_be_made_and_deleted() -> None:
    for kind in CHILDREN.values():
        assert {"create", "delete"} <= VERBS[kind.plural], kind.name


def test_each_rule_names_modules_that_exist() -> None:
    modules = {path.stem for path in Path(sam3ft_operator.__file__).parent.glob("*.py")}
    for rule in RUN_RULES:
        assert modules & set(re.findall(r"[a-z_]+", rule.why)), rule.why
