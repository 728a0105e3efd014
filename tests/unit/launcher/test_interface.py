"""Which interface the workers' process groups use."""

import pytest

from sam3ft_trainer.run.launcher.interface import interface_of, network_environment


def test_gloo_is_told_the_interface_of_the_node_s_address():
    environment = network_environment("10.0.0.5", environ={}, find={"10.0.0.5": "eth1"}.get)

    assert environment == {"GLOO_SOCKET_IFNAME": "eth1"}


def test_a_choice_in_the_environment_stays():
    assert {} == network_environment("10.0.0.5", environ={"GLOO_SOCKET_IFNAME": "ib0"}, find=lambda _: "eth1")


def test_an_address_that_no_interface_has_leaves_the_choice_to_gloo():
    assert {} == network_environment("10.0.0.5", environ={}, find=lambda _: None)


@pytest.mark.parametrize(
    ("address", "name"),
    [("127.0.0.1", "lo"), ("localhost", "lo"), ("192.0.2.77", None), ("no.such.host.invalid", None)],
)
def test_interfaces_are_found_by_number_and_by_name(address: str, name: str | None):
    assert name == interface_of(address)
