"""The chart without a cluster: what it renders from which values, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerts import rule_file
from chart_bench import CHART, Helm, of_kind, the

from sam3ft_launch.kubernetes.rights import user_roles
from sam3ft_operator.options import parse
from sam3ft_operator.rbac import RUN_RULES, lease_rules

ROOT = CHART.parents[1]
CASES = sorted(path.name for path in (CHART / "ci").glob("*.yaml"))
CLUSTER_KINDS = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


def test_what_is_generated_is_what_the_code_says() -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "chart" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == ended.returncode, ended.stderr


def test_lint_finds_nothing(helm: Helm) -> None:
    for case in CASES:
        ended = helm("lint", "--strict", "--kube-version", "1.35.4", str(CHART), "-f", str(CHART / "ci" / case))
        assert "0 chart(s) failed" in ended.stdout, ended.stdout
        assert "[WARNING]" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("case", CASES)
def test_the_operator_reads_what_the_chart_gives_it(helm: Helm, case: str, tmp_path: Path) -> None:
    objects = helm.render("-f", str(CHART / "ci" / case))
    files = the(objects, "ConfigMap", "demo-sam3ft")["data"]
    (deployment,) = of_kind(objects, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    arguments = [word.replace("/etc/sam3ft", str(tmp_path)) for word in container["args"]]

    options = parse(arguments, environ={"POD_NAMESPACE": "ops"})
    given = yaml.safe_load((CHART / "ci" / case).read_text())
    assert given.get("watchNamespace", "") == options.namespace
    assert ("ops", "demo-sam3ft") == (options.lease.namespace, options.lease.name)
    assert options.cluster.operator_image == container["image"]
    assert options.cluster.operator_labels.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert {"default", *given.get("workerProfiles", {})} == set(options.cluster.worker_profiles)
    assert {"default", *given.get("storageProfiles", {})} == set(options.cluster.known_storage_profiles)


def test_the_settings_of_runs_arrive(helm: Helm, tmp_path: Path) -> None:
    objects = helm.render("-f", str(CHART / "ci" / "full-values.yaml"))
    for name, text in the(objects, "ConfigMap", "demo-sam3ft")["data"].items():
        (tmp_path / name).write_text(text)
    arguments = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"]

    cluster = parse([word.replace("/etc/sam3ft", str(tmp_path)) for word in arguments], environ={}).cluster
    assert (None, "8Gi", 3600, 10) == (
        cluster.run_as_user,
        cluster.preflight_memory,
        cluster.preflight_deadline_s,
        cluster.unreachable_s,
    )
    assert (("10.0.0.0/8",), {"kubernetes.io/metadata.name": "minio"}) == (
        cluster.store_cidrs,
        cluster.store_namespace_labels,
    )
    assert {"rdma/hca": "1"} == cluster.worker_profiles["a100"].extra_resources


def test_rights_are_those_of_the_code(helm: Helm) -> None:
    objects = helm.render()
    assert [rule.to_rule() for rule in RUN_RULES] == the(objects, "ClusterRole", "demo-sam3ft")["rules"]
    assert lease_rules("demo-sam3ft") == the(objects, "Role", "demo-sam3ft-lease")["rules"]
    for role in user_roles():
        name = role["metadata"]["name"].replace("sam3ft-", "demo-sam3ft-")
        rendered = the(objects, "ClusterRole", name)
        assert role["rules"] == rendered["rules"]
        assert role["metadata"]["labels"].items() <= rendered["metadata"]["labels"].items()


def test_for_one_namespace_nothing_of_the_cluster_is_asked_for(helm: Helm) -> None:
    objects = helm.render("-f", str(CHART / "ci" / "namespaced-values.yaml"))
    assert set() == CLUSTER_KINDS & {found["kind"] for found in objects}
    assert "lab" == the(objects, "Role", "demo-sam3ft")["metadata"]["namespace"]
    assert [rule.to_rule() for rule in RUN_RULES] == the(objects, "Role", "demo-sam3ft")["rules"]
    assert [] == of_kind(objects, "PodDisruptionBudget")


@pytest.mark.parametrize("case", CASES)
def test_pods_are_restricted_and_bounded(helm: Helm, case: str) -> None:
    objects = helm.render("-f", str(CHART / "ci" / case))
    pods = [found["spec"]["template"]["spec"] for found in of_kind(objects, "Deployment")]
    pods += [found["spec"] for found in of_kind(objects, "Pod")]
    assert 2 == len(pods)
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
        for container in pod["containers"]:
            security = container["securityContext"]
            assert (False, True) == (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"])
            assert ["ALL"] == security["capabilities"]["drop"]
            assert "memory" in container["resources"]["limits"]
        assert pod["serviceAccountName"] if pod is pods[0] else not pod["automountServiceAccountToken"]


def test_changed_profiles_restart_the_operator(helm: Helm) -> None:
    def mark(**values: Any) -> str:
        (deployment,) = of_kind(helm.render(**values), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert mark() == mark(replicas=3)
    assert mark() != mark(workerProfiles={"a100": {"gpuResource": "nvidia.com/gpu"}})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image": {"repositry": "x"}}, "repositry"),
        ({"replica": 2}, "replica"),
        ({"replicas": 0}, "replicas"),
        ({"image": {"tag": "a b"}}, "tag"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
        ({"image": {"pullPolicy": "always"}}, "pullPolicy"),
        ({"watchNamespace": "Lab"}, "watchNamespace"),
        ({"metrics": {"whenMissing": "ignore"}}, "whenMissing"),
        ({"metrics": {"port": 80}}, "port"),
        ({"workerProfiles": {"a100": {"gpuResouce": "nvidia.com/gpu"}}}, "gpuResouce"),
        ({"workerProfiles": {"A100": {}}}, "A100"),
        ({"workerProfiles": {"a": {"cacheVolume": {"sizeLimit": "ten"}}}}, "sizeLimit"),
        ({"storageProfiles": {"lab": {"endpoint": "s3.lab"}}}, "endpoint"),
        ({"storageProfiles": {"lab": {"secretKey": "x"}}}, "secretKey"),
        ({"runs": {"storeCidr": []}}, "storeCidr"),
        ({"workerProfiles": {"a": {"env": {"A-B": "x"}}}}, "A-B"),
        ({"runs": {"operatorImage": "x"}}, "operatorImage"),
        ({"runs": {"unreachableS": -1}}, "unreachableS"),
    ],
)
def test_wrong_values_are_refused_by_their_name(helm: Helm, values: dict[str, Any], words: str) -> None:
    assert words in helm.refusal(**values)


def test_an_account_that_is_not_made_has_to_be_named(helm: Helm) -> None:
    assert "serviceAccount.name is needed" in helm.refusal(serviceAccount={"create": False})
    objects = helm.render(serviceAccount={"create": False, "name": "mine"})
    assert [] == of_kind(objects, "ServiceAccount")
    assert {"mine"} == {binding["subjects"][0]["name"] for binding in of_kind(objects, "RoleBinding")}


@pytest.mark.parametrize("when", ["skip", "fail", "always"])
def test_a_cluster_without_the_prometheus_operator(helm: Helm, when: str) -> None:
    metrics = {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}, "whenMissing": when}
    if when == "fail":
        assert "this cluster knows no ServiceMonitor" in helm.refusal(metrics=metrics)
    else:
        monitors = [found for found in helm.render(metrics=metrics) if found["kind"].endswith("Monitor")]
        assert (2 if when == "always" else 0) == len(monitors)
    known = [*known_kind("ServiceMonitor"), *known_kind("PodMonitor")]
    kinds = {found["kind"] for found in helm.render(*known, metrics=metrics)}
    assert {"ServiceMonitor", "PodMonitor"} <= kinds


def test_the_alerts_come_through_the_template_as_they_were_written(helm: Helm) -> None:
    objects = helm.render("-f", str(CHART / "ci" / "full-values.yaml"))
    (rules,) = of_kind(objects, "PrometheusRule")

    assert yaml.safe_load(rule_file()) == rules["spec"]  # what is in braces there is for Prometheus
    assert "prometheus" == rules["metadata"]["labels"]["release"]


def test_the_series_of_operator_and_coordinator_can_be_joined(helm: Helm) -> None:
    objects = helm.render("-f", str(CHART / "ci" / "full-values.yaml"))
    (monitor,), (pods,) = of_kind(objects, "ServiceMonitor"), of_kind(objects, "PodMonitor")
    assert [True] == [endpoint["honorLabels"] for endpoint in monitor["spec"]["endpoints"]]
    (relabeling,) = pods["spec"]["podMetricsEndpoints"][0]["relabelings"]
    golden = next(yaml.safe_load_all(_coordinator()))
    labels = {re.sub(r"[^a-zA-Z0-9_]", "_", name): value for name, value in golden["metadata"]["labels"].items()}
    (source,) = relabeling["sourceLabels"]

    assert "job_name" == relabeling["targetLabel"]
    assert labels[source.removeprefix("__meta_kubernetes_pod_label_")]


def test_monitors_find_what_they_look_for(helm: Helm) -> None:
    objects = helm.render("-f", str(CHART / "ci" / "full-values.yaml"))
    (monitor,), (service,) = of_kind(objects, "ServiceMonitor"), of_kind(objects, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {it["port"] for it in monitor["spec"]["endpoints"]} <= {it["name"] for it in service["spec"]["ports"]}
    assert "prometheus" == monitor["metadata"]["labels"]["release"]
    (pods,) = of_kind(objects, "PodMonitor")
    golden = next(yaml.safe_load_all(_coordinator()))
    assert pods["spec"]["selector"]["matchLabels"].items() <= golden["metadata"]["labels"].items()
    ports = {port["name"] for port in golden["spec"]["containers"][0]["ports"]}
    assert {it["port"] for it in pods["spec"]["podMetricsEndpoints"]} <= ports


def _coordinator() -> str:
    documents = (ROOT / "tests" / "golden" / "kubernetes" / "small.yaml").read_text().split("\n---\n")
    return next(text for text in documents if "kind: Pod\n" in text and "role: coordinator" in text)


def test_it_works_as_part_of_another_chart(helm: Helm, tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "sam3ft").symlink_to(CHART)
    (parent / "Chart.yaml").write_text(
        json.dumps(
            {
                "apiVersion": "v2",
                "name": "parent",
                "version": "1.0.0",
                "dependencies": [{"name": "sam3ft", "version": "*", "condition": "sam3ft.enabled"}],
            }
        )
    )
    values = {"global": {"site": "x"}, "sam3ft": {"enabled": True, "replicas": 1}}
    (deployment,) = of_kind(helm.render(chart=parent, **values), "Deployment")
    assert ("demo-sam3ft", 1) == (deployment["metadata"]["name"], deployment["spec"]["replicas"])
    assert [] == helm.render(chart=parent, sam3ft={"enabled": False})


def test_the_definition_is_kept_unless_it_is_asked_not_to_be(helm: Helm) -> None:
    (kept,) = of_kind(helm.render(), "CustomResourceDefinition")
    assert {"helm.sh/resource-policy": "keep"} == kept["metadata"]["annotations"]
    (other,) = of_kind(helm.render(crds={"keep": False}), "CustomResourceDefinition")
    assert "annotations" not in other["metadata"]
    committed = yaml.safe_load((ROOT / "crds" / "sam3finetunes.sam3ft.dev.yaml").read_text())
    assert committed["spec"] == kept["spec"]


def test_the_values_of_the_guide_are_taken_by_chart_and_operator(helm: Helm, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "install.md").read_text().split("<!-- executed by a test: values -->")[1]
    values = yaml.safe_load(page.split("```yaml\n")[1].split("```", maxsplit=1)[0])
    monitors = [word for kind in ("ServiceMonitor", "PodMonitor") for word in known_kind(kind)]
    objects = helm.render(*monitors, **values)
    for name, text in the(objects, "ConfigMap", "demo-sam3ft")["data"].items():
        (tmp_path / name).write_text(text)
    arguments = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"]

    cluster = parse([word.replace("/etc/sam3ft", str(tmp_path)) for word in arguments], environ={}).cluster
    assert {"default", "a100"} == set(cluster.worker_profiles)
    assert {"default", "lab"} == set(cluster.known_storage_profiles)
    assert 2 == len([found for found in objects if found["kind"].endswith("Monitor")])


def known_kind(kind: str) -> list[str]:
    """Return the words that let helm believe in a kind of the Prometheus operator."""
    return ["--api-versions", f"monitoring.coreos.com/v1/{kind}"]


@pytest.mark.parametrize("name", ["2024", "1abc"])
def test_names_that_are_numbers_or_begin_with_one_are_names(helm: Helm, name: str) -> None:
    text = helm(
        "template", name, str(CHART), "-n", "0815", "--kube-version", "1.35.4", "--set-string", "watchNamespace=123"
    ).stdout
    objects = [document for document in yaml.safe_load_all(text) if document]
    for found in objects:
        labels = found["metadata"].get("labels", {})
        assert all(isinstance(value, str) for value in labels.values()), found["kind"]
        assert isinstance(found["metadata"].get("namespace", ""), str), found["kind"]
        assert found["metadata"]["name"][0].isalpha() or found["kind"] == "ClusterRole"
    settings = yaml.safe_load(of_kind(objects, "ConfigMap")[0]["data"]["cluster-settings.yaml"])
    assert "0815" == settings["operator_namespace"]


def test_two_releases_have_nothing_in_common_that_only_one_can_have(helm: Helm) -> None:
    objects = [helm.render(watchNamespace=team, crds={"enabled": False}) for team in ("team-a", "team-b")]
    of_cluster = [{it["metadata"]["name"] for it in of_kind(found, "ClusterRole")} for found in objects]
    assert 2 == len(of_cluster[0])
    assert set() == of_cluster[0] & of_cluster[1]
    names = [
        next(iter(helm("template", release, str(CHART), "--kube-version", "1.35.4").stdout.split("--lease-name=")[1:]))
        for release in ("one", "two")
    ]
    assert names[0].split()[0] != names[1].split()[0]
