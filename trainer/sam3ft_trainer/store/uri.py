"""Addresses of folders and buckets, and the one table of how each kind is opened.

    runs/blood   /data/runs   file:///data/runs   s3://bucket/prefix   gs://bucket/prefix   az://container/prefix

A new kind of store is one more line in `OPENERS`. Credentials come from the environment, never from an address.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_trainer.store.objects import Store

if TYPE_CHECKING:  # these two exist for type checkers only
    from obstore.store import ClientConfig, RetryConfig

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_RETRY: "RetryConfig" = {"max_retries": 8, "retry_timeout": timedelta(seconds=120)}
_CLIENT: "ClientConfig" = {"connect_timeout": timedelta(seconds=3), "timeout": timedelta(seconds=60)}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address.

    Attributes:
        scheme: file, s3, gs or az.
        bucket: bucket or container; empty for a folder.
        path: absolute path of a folder, else the prefix in the bucket without slashes at its ends.
    """

    scheme: str
    bucket: str
    path: str

    def __str__(self) -> str:
        """Return what `parse_address` reads back to an equal address."""
        if self.scheme == "file":
            return self.path
        return f"{self.scheme}://{self.bucket}" + (f"/{self.path}" if self.path else "")

    def child(self, *parts: str) -> "Address":
        """Return the address of a prefix below this one."""
        return replace(
            self, path="/".join([self.path.rstrip("/"), *parts]).lstrip("" if self.scheme == "file" else "/")
        )


def parse_address(text: str) -> Address:
    """Return the parsed form of a folder path or URL; a relative path counts from the current folder.

    Raises:
        InvalidConfig: unknown scheme (the message names the allowed ones), no bucket, `..`, or anything that looks
            like credentials, a query or a fragment in a URL.
    """
    match = _SCHEME.match(text)
    if match is None:
        return Address("file", "", str(Path(text).expanduser().absolute()))
    scheme = match[1].lower()
    if scheme not in OPENERS or match[2] is None:
        raise InvalidConfig(
            f"address {_without_secret(text)!r}: unknown kind {match[1]!r}; allowed are a folder, "
            + ", ".join(f"{name}://" for name in OPENERS)
        )
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query:
        raise InvalidConfig(
            f"address {_without_secret(text)!r}: credentials and options do not belong into an address; "
            "give credentials through the environment"
        )
    if scheme == "file":
        if parts.netloc not in {"", "localhost"}:
            raise InvalidConfig(f"address {text!r}: a file:// address needs three slashes, file:///path")
        return Address("file", "", str(Path(unquote(parts.path))))
    path = text[len(match[0]) :].partition("/")[2].strip("/")
    if not parts.netloc or ".." in path.split("/"):
        raise InvalidConfig(f"address {text!r}: expected {scheme}://BUCKET/PREFIX without '..'")
    return Address(scheme, parts.netloc, path)


def open_store(address: Address | str, *, create: bool = False) -> Store:
    """Open the store at an address.

    Args:
        address: parsed or as text.
        create: make the folder if it is missing (buckets are never created).

    Raises:
        InvalidConfig: as `parse_address`.
        StorageDenied: the folder does not exist, is a file, or cannot be made.
    """
    parsed = parse_address(address) if isinstance(address, str) else address
    return OPENERS[parsed.scheme](parsed, create)


def _open_folder(address: Address, create: bool) -> Store:  # noqa: FBT001 - the one signature of the table
    folder = Path(address.path)
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageDenied(f"{folder}: the folder cannot be made ({error.strerror}); choose another one") from error
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise StorageDenied(f"{folder}: the folder {kind}; check the address")
    return Store(LocalStore(folder), address=str(address), folder=folder)


def _open_s3(address: Address, create: bool) -> Store:  # noqa: ARG001, FBT001 - the one signature of the table
    backend = S3Store(address.bucket, prefix=address.path or None, client_options=_CLIENT, retry_config=_RETRY)
    return Store(backend, address=str(address))


def _open_gs(address: Address, create: bool) -> Store:  # noqa: ARG001, FBT001 - the one signature of the table
    backend = GCSStore(address.bucket, prefix=address.path or None, client_options=_CLIENT, retry_config=_RETRY)
    return Store(backend, address=str(address))


def _open_az(address: Address, create: bool) -> Store:  # noqa: ARG001, FBT001 - the one signature of the table
    backend = AzureStore(address.bucket, prefix=address.path or None, client_options=_CLIENT, retry_config=_RETRY)
    return Store(backend, address=str(address))


OPENERS: dict[str, Callable[[Address, bool], Store]] = {
    "file": _open_folder,
    "s3": _open_s3,
    "gs": _open_gs,
    "az": _open_az,
}
"""How each scheme is opened: (address, create a missing root) -> store."""


def _without_secret(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", text.partition("?")[0])
