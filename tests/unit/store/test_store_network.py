import socket
from collections.abc import Sequence

import pytest

from sam3ft_api.errors import InvalidConfig, StorageUnavailable
from sam3ft_trainer.store.network import check_endpoint, parse_endpoint, resolve


def _check(url: str, *addresses: str, allowed: Sequence[str] = ()) -> list[str]:
    return check_endpoint(
        parse_endpoint(url, origin="the test"),
        allowed=allowed,  # type: ignore[arg-type]
        advice="storage profile 'lab'",
        lookup=(lambda _: addresses) if addresses else resolve,
    )


INSIDE = [
    ("127.0.0.1", "loopback"),
    ("127.255.3.4", "loopback"),
    ("::1", "loopback"),
    ("::ffff:127.0.0.1", "loopback"),
    ("64:ff9b::7f00:1", "loopback"),
    ("10.1.2.3", "private"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.168.1.1", "private"),
    ("100.64.0.1", "private"),
    ("fd12:3456::1", "private"),
    ("::ffff:10.0.0.1", "private"),
    ("2002:0a00:0001::", "private"),
    ("169.254.1.1", "link-local"),
    ("169.254.169.254", "link-local"),
    ("::ffff:169.254.169.254", "link-local"),
    ("64:ff9b::a9fe:a9fe", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fd00:ec2::254", "link-local"),
    ("100.100.100.200", "link-local"),
]
NEVER = [
    "0.0.0.0",  # noqa: S104 - nothing is bound
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "ff02::1",
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "2001:db8::1",
]


@pytest.mark.parametrize(("address", "kind"), INSIDE)
def test_an_address_inside_is_refused_with_its_kind_and_the_line_that_allows_it(address: str, kind: str):
    with pytest.raises(InvalidConfig) as refusal:
        _check("https://s3.lab.example", address)

    assert f"leads to {address}, a {kind} address" in str(refusal.value)
    assert f"add this line to storage profile 'lab': allowNetworks: [{kind}]" in str(refusal.value)


@pytest.mark.parametrize(("address", "kind"), INSIDE)
def test_an_address_inside_is_asked_when_the_profile_allows_its_kind_and_no_other(address: str, kind: str):
    others = sorted({"loopback", "private", "link-local"} - {kind})

    assert [address] == _check("https://s3.lab.example", address, allowed=[kind])
    with pytest.raises(InvalidConfig, match=f"allowNetworks: \\[{', '.join(sorted([*others, kind]))}\\]"):
        _check("https://s3.lab.example", address, allowed=others)


@pytest.mark.parametrize("address", NEVER)
def test_what_is_no_address_of_a_service_is_refused_whatever_is_allowed(address: str):
    with pytest.raises(InvalidConfig, match="no address of a service"):
        _check("https://s3.lab.example", address, allowed=["loopback", "private", "link-local"])


def test_one_inner_address_among_many_is_enough():
    with pytest.raises(InvalidConfig, match=r"leads to 10\.0\.0\.1"):
        _check("https://s3.lab.example", "52.1.2.3", "10.0.0.1")


def test_public_addresses_are_asked():
    expected = ["52.1.2.3", "2600:1f18::1"]

    assert expected == _check("https://s3.lab.example", *expected)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.0.1."]
)
def test_every_spelling_of_an_address_is_the_address(host: str):
    with pytest.raises(InvalidConfig, match=r"leads to 127\.0\.0\.1, a loopback address"):
        _check(f"http://{host}:9000")


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"])
def test_every_spelling_of_the_metadata_service_is_refused(host: str):
    with pytest.raises(InvalidConfig, match=r"leads to 169\.254\.169\.254, a link-local address"):
        _check(f"http://{host}")


def test_addresses_in_brackets_are_read():
    with pytest.raises(InvalidConfig, match="leads to ::1, a loopback address"):
        _check("https://[::1]:9000")


def test_a_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: answer)

    with pytest.raises(InvalidConfig, match="link-local"):
        _check("https://innocent.example")


def test_a_name_that_does_not_resolve_is_an_outage_with_advice(monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    with pytest.raises(StorageUnavailable, match=r"'typo.example' .* does not resolve; check its spelling in the test"):
        _check("https://typo.example")


def test_a_proxy_decides_about_names_that_only_it_resolves(monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")

    assert [] == _check("https://far.example")
    with pytest.raises(StorageUnavailable):
        _check("https://near.example")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "https://user:hunter2@host",
        "https://host/path?hunter2",
        "https://host#hunter2",
        "https://good.example\\@169.254.169.254",
        "https://host:99999999",
        "file:///etc/passwd",
        "https://",
        "https://127。0。0。1",
        "",
    ],
)
def test_anything_but_scheme_host_and_port_is_refused_and_not_repeated(url: str):
    with pytest.raises(InvalidConfig) as refusal:
        parse_endpoint(url, origin="the Secret")

    assert "the endpoint from the Secret is not https://HOST[:PORT]" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
