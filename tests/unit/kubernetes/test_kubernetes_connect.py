"""Whose credentials a user's command takes."""

from pathlib import Path
from typing import Any

import pytest
from kubernetes import config

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.kubernetes.connect import connect

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: {name}
clusters: [{{name: c, cluster: {{server: "https://{name}.example"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: {name}, context: {{cluster: c, user: u, namespace: of-{name}}}}}]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder inside a pod whose account would be taken by a program without a kubeconfig."""

    def account(client_configuration: Any) -> None:
        client_configuration.host = "https://account.example"

    monkeypatch.setattr(config, "load_incluster_config", account)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return tmp_path


def write(path: Path, name: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(KUBECONFIG.format(name=name))
    return str(path)


def where(kubeconfig: str | None = None) -> tuple[str, str]:
    runs = connect(kubeconfig=kubeconfig, context=None, namespace=None)
    return runs.api.configuration.host, runs.namespace


def test_the_user_s_kubeconfig_goes_before_the_pod_s_account(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "https://account.example" == where()[0]
    write(home / ".kube" / "config", "usual")
    assert ("https://usual.example", "of-usual") == where()
    monkeypatch.setenv("KUBECONFIG", write(home / "named", "named"))
    assert ("https://named.example", "of-named") == where()
    assert ("https://given.example", "of-given") == where(write(home / "given", "given"))


def test_a_kubeconfig_that_is_named_and_missing_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(home / "nowhere"))
    with pytest.raises(InvalidConfig, match=r"no credentials for a cluster.*set KUBECONFIG"):
        where()


def test_a_context_has_its_own_namespace_without_a_current_one(home: Path) -> None:
    text = KUBECONFIG.format(name="lab").replace("current-context: lab\n", "")
    (home / "config").write_text(text)

    runs = connect(kubeconfig=str(home / "config"), context="lab", namespace=None)
    assert ("https://lab.example", "of-lab") == (runs.api.configuration.host, runs.namespace)
    with pytest.raises(InvalidConfig, match="current-context"):
        connect(kubeconfig=str(home / "config"), context=None, namespace=None)


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "{", "contexts: 5"])
def test_what_is_no_kubeconfig_is_told(home: Path, text: str) -> None:
    (home / "config").write_text(text)
    with pytest.raises(InvalidConfig):
        connect(kubeconfig=str(home / "config"), context=None, namespace=None)
