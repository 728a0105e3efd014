"""What these tests need of a machine, and what they leave behind."""

from pathlib import Path

import pytest
from elastic_net import Network, need_namespaces
from elastic_site import need_faketime


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_machine_without_iproute2_fails_in_ci_and_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception]
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match="apt-get install iproute2"):
        need_namespaces()


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_machine_without_libfaketime_fails_in_ci_and_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception]
):
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match="apt-get install libfaketime"):
        need_faketime(tmp_path)


def test_a_network_is_gone_when_it_is_closed():
    need_namespaces()
    network = Network(2)
    names = [network.hub, network.node(0), network.node(1)]
    before = [Path("/var/run/netns", name).exists() for name in names]
    network.close()

    assert before == [True] * 3
    assert [False] * 3 == [Path("/var/run/netns", name).exists() for name in names]
