"""Which network interface the process groups of this node's workers use."""

import os
import socket
from collections.abc import Callable, Mapping

import psutil

ENV_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


def network_environment(
    address: str, *, environ: Mapping[str, str] = os.environ, find: Callable[[str], str | None] | None = None
) -> dict[str, str]:
    """Return what makes gloo announce the address at which other nodes reach this one.

    Left to itself gloo announces whatever the host's own name resolves to, which on many machines is 127.0.1.1: the
    ranks of two nodes then never meet. A choice in the environment stays; NCCL finds its interfaces by itself.

    Args:
        address: of this node.
        environ: the launcher's environment.
        find: address -> interface; by default this machine's.
    """
    if ENV_GLOO_INTERFACE in environ:
        return {}
    name = (find or interface_of)(address)
    return {} if name is None else {ENV_GLOO_INTERFACE: name}


def interface_of(address: str) -> str | None:
    """Return the interface of this machine that has the address, a number or a name; None when none has it."""
    try:
        wanted = {str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(address, None)}
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] in wanted for each in addresses):
            return name
    return None
