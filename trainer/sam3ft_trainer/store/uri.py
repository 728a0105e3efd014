"""Addresses of folders and buckets, and the one table of how each kind is opened.

    runs/blood   /data/runs   file:///data/runs   s3://bucket/prefix   gs://bucket/prefix   az://container/prefix

A new kind of store is one more line in `OPENERS`. How a bucket is reached and as whom is said by an `Access`, never by
an address.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_trainer.store.access import Access, default_access
from sam3ft_trainer.store.az import open_az
from sam3ft_trainer.store.backends import Backends
from sam3ft_trainer.store.gs import open_gs
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.s3 import open_s3

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):(//)?")


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
    if "@" in parts.netloc or (":" in parts.netloc and scheme != "file") or parts.query:
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


def open_store(address: Address | str, *, create: bool = False, access: Access | None = None) -> Store:
    """Open the store at an address; its endpoint is held against the profile's allow-list each time.

    Args:
        address: parsed or as text.
        create: make the folder if it is missing (buckets are never created).
        access: profile and credentials; None takes the default profile with the run's credentials from the
            environment of this process. A folder needs none.

    Raises:
        InvalidConfig: as `parse_address`; the profile refuses the endpoint, or credentials are incomplete.
        StorageDenied: the folder does not exist, is a file, or cannot be made.
        StorageUnavailable: the name of the endpoint does not resolve.
    """
    parsed = parse_address(address) if isinstance(address, str) else address
    return OPENERS[parsed.scheme](parsed, create, access)


def _open_folder(address: Address, create: bool, access: Access | None) -> Store:  # noqa: ARG001, FBT001 - the table's
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


Opener = Callable[[Address, bool, Access | None], Store]


def _bucket_by(clients: Callable[[str, str, Access], Backends], cloud: str) -> Opener:
    def opened(address: Address, create: bool, access: Access | None) -> Store:  # noqa: ARG001, FBT001 - the table's
        reached = access or default_access()
        known = [reached.credentials(cloud)]

        def reopen() -> Backends | None:
            present = reached.credentials(cloud)
            if present == known[0]:
                return None
            made = clients(address.bucket, address.path, reached)
            known[0] = present
            return made

        return Store(clients(address.bucket, address.path, reached), address=str(address), reopen=reopen)

    return opened


OPENERS: dict[str, Opener] = {
    "file": _open_folder,
    "s3": _bucket_by(open_s3, "AWS_"),
    "gs": _bucket_by(open_gs, "GOOGLE_"),
    "az": _bucket_by(open_az, "AZURE_"),
}
"""How each scheme is opened: (address, create a missing root, access) -> store."""


def _without_secret(text: str) -> str:
    """Return an address without what may be credentials: all up to its last @ (a key may hold slashes), all from ?."""
    scheme, slashes, rest = text.partition("?")[0].partition("://")
    if not slashes:
        return scheme
    head, at, tail = rest.rpartition("@")
    hidden = "***" if at or ":" in tail.partition("/")[0] else ""
    return f"{scheme}://{hidden}" + (f"@{tail}" if at else "" if hidden else f"{head}{tail}")
