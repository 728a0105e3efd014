"""Which hosts may be asked: addresses inside a machine, a cluster or a cloud need the administrator's word.

A run's Secret may name an endpoint, and whoever writes a Secret must not thereby reach the metadata service of the
node or a service beside it. Every endpoint is resolved when a store is opened, and each of its addresses is judged.
The name is resolved again when a connection is made: a name that changes in between is not caught by this, a network
policy is.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.request import getproxies, proxy_bypass

from sam3ft_api.errors import InvalidConfig, StorageUnavailable
from sam3ft_api.storage import Network

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Kind = Network | Literal["public", "reserved"]
Resolve = Callable[[str], Sequence[str]]
_URL = re.compile(r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?/?")
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_METADATA = {ipaddress.ip_address(text) for text in ("169.254.169.254", "100.100.100.200", "fd00:ec2::254")}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked URL of a service.

    Attributes:
        url: `scheme://host[:port]` without a slash at its end.
        host: name or address, without brackets.
        origin: who named it, for messages.
    """

    url: str
    host: str
    origin: str

    @property
    def has_tls(self) -> bool:
        """Whether connections are encrypted and the server is verified."""
        return self.url.startswith("https://")


def parse_endpoint(text: str, *, origin: str) -> Endpoint:
    """Return the parts of an endpoint.

    Raises:
        InvalidConfig: anything but `http(s)://host[:port]`; the text is not repeated, it may hold a password.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidConfig(
            f"the endpoint from {origin} is not https://HOST[:PORT], without path, query or credentials"
        )
    return Endpoint(text.rstrip("/"), match[2].strip("[]").rstrip("."), origin)


def kind_of(address: IpAddress) -> Kind:
    """Return to which of the guarded ranges an address belongs; one inside an IPv6 address counts as itself."""
    address = _embedded(address)
    if address in _METADATA or address.is_link_local:
        return "link-local"
    if address.is_loopback:
        return "loopback"
    if address.is_unspecified or (address.version == 4 and address in _THIS_NETWORK):
        return "reserved"
    if any(address.version == net.version and address in net for net in _PRIVATE):
        return "private"
    if address.is_multicast or address.is_reserved or not address.is_global:
        return "reserved"
    return "public"


def resolve(host: str) -> list[str]:
    """Return the addresses of a host as the system resolves it; 127.1 and 0x7f000001 are numbers to it, not names."""
    return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})


def check_endpoint(
    endpoint: Endpoint, *, allowed: Sequence[Network], advice: str, lookup: Resolve = resolve
) -> list[str]:
    """Return the addresses of an endpoint when all of them may be asked.

    Args:
        endpoint: what is asked.
        allowed: kinds that the profile allows.
        advice: where the line that allows more belongs.
        lookup: from a host to its addresses.

    Raises:
        InvalidConfig: an address lies in a range that is not allowed.
        StorageUnavailable: the name does not resolve.
    """
    try:
        addresses = list(lookup(endpoint.host))
    except (OSError, UnicodeError):
        if _through_proxy(endpoint):
            return []  # the proxy resolves the name, and decides
        raise StorageUnavailable(
            f"the name {endpoint.host!r} of the endpoint {endpoint.url} does not resolve; check its spelling in "
            f"{endpoint.origin}, and the name server of this machine"
        ) from None
    for text in addresses:
        kind = kind_of(ipaddress.ip_address(text.partition("%")[0]))
        if kind != "public" and kind not in allowed:
            raise InvalidConfig(_refusal(endpoint, text, kind, allowed, advice))
    return addresses


def _refusal(endpoint: Endpoint, address: str, kind: Kind, allowed: Sequence[Network], advice: str) -> str:
    leads = f"the endpoint {endpoint.url} from {endpoint.origin} leads to {address}"
    if kind == "reserved":
        return f"{leads}, which is no address of a service (unspecified, multicast or reserved); name another endpoint"
    line = ", ".join(sorted({*allowed, kind}))
    return (
        f"{leads}, a {kind} address; those are refused unless the profile allows them. If it is meant, add this line "
        f"to {advice}: allowNetworks: [{line}]"
    )


def _embedded(address: IpAddress) -> IpAddress:
    """Return the IPv4 address that an IPv6 address stands for, else the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in _NAT64 or 1 < int(address) < 1 << 32):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def _through_proxy(endpoint: Endpoint) -> bool:
    proxies = getproxies()
    used = endpoint.url.partition(":")[0] in proxies or "all" in proxies
    return used and not proxy_bypass(endpoint.host)
