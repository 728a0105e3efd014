"""Where bytes come from: a narrow reading interface, and folders behind it (stores are in `remote`).

Everything above reads through `ImageSource`, whose keys are relative paths with forward slashes. Keys come out of
annotation files, so they are untrusted: whatever would leave the root is refused, symbolic links included.
"""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol
from urllib.parse import unquote, urlsplit

from sam3ft_api.errors import InvalidConfig, InvalidDataset, StorageDenied, StorageUnavailable


class KeyMissing(InvalidDataset):
    """No regular file has this key."""


class KeyLeavesRoot(InvalidDataset):
    """The key is absolute, climbs with `..`, or reaches outside through a symbolic link."""


class ImageSource(Protocol):
    """Read-only access to the files of one split; safe to call from many threads."""

    @property
    def address(self) -> str:
        """The root, as shown to users."""
        ...

    def get(self, key: str) -> bytes:
        """Return the content of a file.

        Raises:
            KeyMissing: there is no such file.
            KeyLeavesRoot: the key points outside the root.
            StorageDenied: the file may not be read.
            StorageUnavailable: reading failed in another way.
        """
        ...

    def check(self, key: str) -> int:
        """Return the size of a file in bytes without reading it; raises as `get` does."""
        ...

    def files(self) -> dict[str, int]:
        """Return the size in bytes of every regular file below the root, by key."""
        ...


def clean_key(name: str) -> str:
    """Return `name` as a key: relative, forward slashes, no `.` parts.

    Raises:
        KeyLeavesRoot: the name is absolute (with a Windows drive, too) or has a `..` part.
        KeyMissing: the name is empty or holds a control character.
    """
    if not name or any(ord(letter) < 32 for letter in name):
        raise KeyMissing(f"file name {name!r} is empty or holds control characters; name a file of the split")
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise KeyLeavesRoot(f"path {name!r} is absolute; file names are relative to the split's folder")
    if ".." in path.parts or ".." in PureWindowsPath(name).parts:
        raise KeyLeavesRoot(f"path {name!r} leaves its folder through '..'; move the file below the split's folder")
    return path.as_posix()


class FolderSource:
    """Files of a local folder.

    The root itself may be a symbolic link; links below it may point to other places below it, never outside.
    """

    def __init__(self, root: Path) -> None:
        """Open `root`.

        Raises:
            StorageDenied: the folder does not exist or may not be listed.
        """
        self._root = root
        self._real = root.resolve()
        if not self._real.is_dir():
            raise StorageDenied(f"folder {str(root)!r} does not exist; give the folder that holds the images")
        if not os.access(self._real, os.R_OK | os.X_OK):
            raise StorageDenied(f"folder {str(root)!r} may not be read; check its permissions")

    @property
    def address(self) -> str:
        """The folder as it was given."""
        return str(self._root)

    def get(self, key: str) -> bytes:
        """Return the content of a file; see `ImageSource.get`."""
        path, _ = self._locate(key)
        try:
            return path.read_bytes()
        except PermissionError as error:
            raise StorageDenied(f"file {str(path)!r} may not be read; check its permissions") from error
        except OSError as error:
            raise StorageUnavailable(f"reading {str(path)!r} failed: {error.strerror}") from error

    def check(self, key: str) -> int:
        """Return the size of a file in bytes; see `ImageSource.check`."""
        return self._locate(key)[1]

    def files(self) -> dict[str, int]:
        """Return the size of every regular file below the root; linked folders are not entered."""
        sizes = {}
        for folder, _, names in os.walk(self._real):
            prefix = Path(folder).relative_to(self._real)
            for name in names:
                try:
                    status = (self._real / prefix / name).stat()
                except OSError:  # a dangling link: it is missing for whoever names it
                    continue
                if stat.S_ISREG(status.st_mode):
                    sizes[(prefix / name).as_posix()] = status.st_size
        return sizes

    def _locate(self, key: str) -> tuple[Path, int]:
        path = (self._real / clean_key(key)).resolve()
        if not path.is_relative_to(self._real):
            raise KeyLeavesRoot(
                f"path {key!r} leaves {self.address!r} through a symbolic link to {str(path)!r}; copy the file instead"
            )
        try:
            status = path.stat()
        except PermissionError as error:
            raise StorageDenied(f"file {str(path)!r} may not be read; check its permissions") from error
        except OSError as error:
            raise KeyMissing(f"file {key!r} does not exist in {self.address!r}") from error
        if not stat.S_ISREG(status.st_mode):
            raise KeyMissing(f"{key!r} in {self.address!r} is not a regular file")
        return path, status.st_size


def local_path(address: str, setting: str) -> Path:
    """Return the local path of an address: a plain path or `file://`.

    Args:
        address: as the user wrote it.
        setting: path of the setting it comes from, for the message.

    Raises:
        InvalidConfig: the address has another scheme or another host.
    """
    parts = urlsplit(address)
    if len(parts.scheme) > 1 and parts.scheme != "file":
        raise InvalidConfig(
            f"{setting} {address!r} has the scheme {parts.scheme!r}; data are read from a folder (a path or file://) "
            "or from s3://, gs:// or az://"
        )
    if parts.scheme != "file":
        return Path(address).expanduser()
    if parts.netloc not in ("", "localhost"):
        raise InvalidConfig(f"{setting} {address!r} names the host {parts.netloc!r}; use file:///path for this machine")
    return Path(unquote(parts.path))
