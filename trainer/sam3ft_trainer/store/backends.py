"""What every kind of bucket has in common: its endpoint checked, its HTTP client set up, its two clients."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.store import ObjectStore

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.network import Endpoint, check_endpoint, parse_endpoint

if TYPE_CHECKING:  # these two exist for type checkers only
    from obstore.store import ClientConfig, RetryConfig

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_RETRY_WINDOW_S = 120.0
_BACKOFF_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class Backends:
    """The clients of one bucket.

    Attributes:
        store: repeats a request that fails.
        creating: never repeats one; for conditional creation, where a repetition turns success into a refusal.
        endpoint: the service's URL.
        secrets: values that must not be shown.
    """

    store: ObjectStore
    creating: ObjectStore
    endpoint: str
    secrets: tuple[str, ...] = field(repr=False)


Make = Callable[["RetryConfig"], ObjectStore]


def open_endpoint(access: Access, url: str, origin: str, *, is_own: bool) -> Endpoint:
    """Return the endpoint when the profile allows to ask it.

    Args:
        access: whose profile.
        url: of the service.
        origin: who named it, for messages.
        is_own: nobody did: it is the cloud's own, which may well resolve to an address inside (a private link).

    Raises:
        InvalidConfig: malformed, without TLS, or inside a range that the profile does not allow.
        StorageUnavailable: its name does not resolve.
    """
    endpoint = parse_endpoint(url, origin=origin)
    if not endpoint.has_tls and not access.profile.allow_http:
        raise InvalidConfig(
            f"the endpoint {endpoint.url} from {origin} has no TLS; use https://, or add this line to {access}: "
            "allowHttp: true"
        )
    if not is_own:
        check_endpoint(endpoint, allowed=access.profile.allow_networks, advice=str(access))
    return endpoint


def check_bucket(bucket: str) -> str:
    """Return a bucket's name when it is one: it becomes a part of a host name or of a path.

    Raises:
        InvalidConfig: other characters than letters, digits, dots, dashes and underscores.
    """
    if not _BUCKET.fullmatch(bucket):
        raise InvalidConfig(f"bucket {bucket!r}: expected letters, digits, dots, dashes and underscores, at most 255")
    return bucket


def client_options(access: Access) -> "ClientConfig":
    """Return the HTTP client's settings; raises InvalidConfig when the CA file cannot be read."""
    profile = access.profile
    options: ClientConfig = {
        "allow_http": profile.allow_http,
        "connect_timeout": timedelta(seconds=profile.connect_timeout_seconds),
        "timeout": timedelta(seconds=profile.request_timeout_seconds),
    }
    if access.headers:
        options["default_headers"] = dict(access.headers)
    if profile.ca_file is not None:
        options["root_certificate"] = _authority(access, Path(profile.ca_file).expanduser())
    return options


def both_clients(access: Access, make: Make, *, endpoint: str, secrets: tuple[str, ...]) -> Backends:
    """Make the client that repeats requests and the one that never does."""
    backoff = {"max_backoff": timedelta(seconds=_BACKOFF_MAX_S), "init_backoff": timedelta(seconds=0.2), "base": 2}
    patient: RetryConfig = {
        "max_retries": access.profile.retries,
        "retry_timeout": timedelta(seconds=_RETRY_WINDOW_S),
        "backoff": backoff,  # type: ignore[typeddict-item]  # BackoffConfig exists for type checkers only
    }
    once: RetryConfig = {**patient, "max_retries": 0}
    return Backends(make(patient), make(once), endpoint, secrets)


def require(values: Mapping[str, str], names: tuple[str, ...], *, origin: str) -> None:
    """Do nothing when all of these names or none of them are there.

    Raises:
        InvalidConfig: only some are.
    """
    missing = [name for name in names if name not in values]
    if missing and len(missing) < len(names):
        present = ", ".join(name for name in names if name in values)
        raise InvalidConfig(f"{origin} has {present} without {', '.join(missing)}; give both, or neither")


def _authority(access: Access, path: Path) -> bytes:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"{access}: caFile {path} cannot be read ({error.strerror})") from None
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise InvalidConfig(f"{access}: caFile {path} holds no PEM certificate (-----BEGIN CERTIFICATE-----)")
    return text


def refuse_strangers(values: Mapping[str, str], names: tuple[str, ...], *, origin: str) -> None:
    """Do nothing unless obstore would take credentials of another purpose from this process's environment.

    Raises:
        InvalidConfig: the place that counts has none of these, and the environment has one.
    """
    found = [name for name in names if name in os.environ]
    if found and not any(name in values for name in names):
        raise InvalidConfig(
            f"{origin} has no credentials ({', '.join(names)}), and the environment has {found[0]}, which is for "
            "another purpose and is not used instead; add the credentials there"
        )
