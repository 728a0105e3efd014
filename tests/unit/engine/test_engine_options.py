"""The command line of the operator."""

from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_operator.options import ENV_POD_NAMESPACE, Options, parse

IMAGE = ("--operator-image", "registry.example/operator:1")


def parsed(*arguments: str, namespace: str = "") -> Options:
    """Return the options of a command line."""
    return parse([*IMAGE, *arguments], environ={ENV_POD_NAMESPACE: namespace})


def test_one_namespace_or_all() -> None:
    assert "lab" == parsed("--namespace", "lab").namespace
    assert "" == parsed("--all-namespaces").namespace


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--all-namespaces", "--namespace", "lab"),
        ("--namespace", "Lab/../x"),
        ("--all-namespaces", "--workers", "0"),
        ("--all-namespaces", "--qps", "many"),
        ("--all-namespaces", "--resync-seconds", "0"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)

    assert 2 == caught.value.code


def test_the_lease_lives_beside_the_operator() -> None:
    assert "ops" == parsed("--all-namespaces", namespace="ops").lease.namespace
    assert "sam3ft-system" == parsed("--all-namespaces").lease.namespace
    assert "ops" == parsed("--all-namespaces", namespace="ops").cluster.operator_namespace


def test_how_often_everything_is_listed() -> None:
    assert 300 == parsed("--all-namespaces").resync_s
    assert 5 == parsed("--all-namespaces", "--resync-seconds", "5").resync_s


def test_no_two_processes_have_the_same_identity() -> None:
    assert parsed("--all-namespaces").lease.identity != parsed("--all-namespaces").lease.identity


@pytest.mark.parametrize(("text", "host", "port"), [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:9", "::1", 9)])
def test_where_metrics_are_served(text: str, host: str, port: int) -> None:
    options = parsed("--all-namespaces", "--metrics-listen", text)

    assert (host, port) == (options.metrics_host, options.metrics_port)


@pytest.mark.parametrize("text", ["8080", "a:b", "a:70000"])
def test_a_place_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match="HOST:PORT"):
        parsed("--all-namespaces", "--metrics-listen", text)


def test_files_of_profiles_and_settings_are_read(tmp_path: Path) -> None:
    storage, workers, cluster = (tmp_path / name for name in ("storage.yaml", "workers.yaml", "cluster.yaml"))
    storage.write_text("profiles:\n  lab: {region: lab}\n")
    workers.write_text("profiles:\n  small: {}\n")
    cluster.write_text("coordinator_memory: 128Mi\n")
    found = parsed(
        "--all-namespaces",
        *("--storage-profiles", str(storage), "--worker-profiles", str(workers), "--cluster-settings", str(cluster)),
    ).cluster

    assert {"default", "lab"} == set(found.known_storage_profiles)
    assert {"default", "small"} == set(found.worker_profiles)
    assert ("128Mi", IMAGE[1]) == (found.coordinator_memory, found.operator_image)


@pytest.mark.parametrize(
    ("flag", "text", "words"),
    [
        ("--storage-profiles", "profiles: {lab: {surprise: 1}}", "surprise"),
        ("--worker-profiles", "[1]", "profiles"),
        ("--cluster-settings", "coordinator_memory: much\n", "coordinator_memory"),
        ("--cluster-settings", "- 1\n", "no mapping"),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_what_is_wrong(
    tmp_path: Path, flag: str, text: str, words: str
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(InvalidConfig, match=words):
        parsed("--all-namespaces", flag, str(path))
