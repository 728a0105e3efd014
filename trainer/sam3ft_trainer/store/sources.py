"""Where credentials come from: a folder with one file per key, or variables of the environment.

A source answers by the names that the clouds' own tools use (AWS_ACCESS_KEY_ID, AZURE_STORAGE_ACCOUNT_KEY, ...). It
is asked anew each time, so that a rotated Secret is seen without a restart. Its values never leave it but through
`values`; what is printed of a source is where it lies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sam3ft_api.errors import InvalidConfig

SECRET_NAMES = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SSE_CUSTOMER_KEY_BASE64",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_BEARER_TOKEN",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_TOKEN",
        "AZURE_CLIENT_SECRET",
    }
)
"""Names whose values are never shown."""
CLOUDS = ("AWS_", "GOOGLE_", "AZURE_")
"""How the names of each cloud begin."""
_SYNONYMS = {
    "AWS_TOKEN": "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCESS_KEY": "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_MASTER_KEY": "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_KEY": "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY": "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_ACCOUNT": "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_ENDPOINT": "AZURE_STORAGE_ENDPOINT",
    "AZURE_STORAGE_CLIENT_SECRET": "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_CLIENT_ID": "AZURE_CLIENT_ID",
    "AZURE_STORAGE_TENANT_ID": "AZURE_TENANT_ID",
}
_MAX_VALUE_BYTES = 64 << 10


class Source(Protocol):
    """One place that holds credentials."""

    @property
    def origin(self) -> str:
        """Where it lies, for messages."""
        ...

    def values(self) -> dict[str, str]:
        """Return what it holds now, by the clouds' names; raises InvalidConfig when it cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A mounted Secret: one file per key; a line break at a file's end does not count."""

    path: Path

    @property
    def origin(self) -> str:
        """The folder."""
        return f"the credentials folder {self.path}"

    def values(self) -> dict[str, str]:
        """Read the folder; files of other names are left alone."""
        try:
            return _by_name(self._pairs())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise InvalidConfig(
                f"{self.origin} cannot be read ({reason}); it holds one file per key, such as AWS_ACCESS_KEY_ID"
            ) from None

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for path in sorted(self.path.iterdir()):
            if path.name.startswith(CLOUDS) and path.is_file():
                if path.stat().st_size > _MAX_VALUE_BYTES:
                    raise InvalidConfig(f"{path} has {path.stat().st_size} bytes; a key has at most {_MAX_VALUE_BYTES}")
                yield path.name, path.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables of the environment, all beginning with a prefix."""

    variables: Mapping[str, str] = field(repr=False)
    prefix: str = ""

    @property
    def origin(self) -> str:
        """The names that are read."""
        return f"the environment ({self.prefix}AWS_..., {self.prefix}GOOGLE_..., {self.prefix}AZURE_...)"

    def values(self) -> dict[str, str]:
        """Return the clouds' variables, without the prefix."""
        names = tuple(self.prefix + cloud for cloud in CLOUDS)
        return _by_name(
            (name.removeprefix(self.prefix), value) for name, value in self.variables.items() if name.startswith(names)
        )


def secrets_of(values: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values that must not be shown, the longest first."""
    return tuple(sorted({values[name] for name in SECRET_NAMES & values.keys()}, key=len, reverse=True))


def _by_name(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Drop empty values and line breaks, and keep one name for each thing."""
    found = {name: value.strip("\r\n") for name, value in pairs}
    return {_SYNONYMS.get(name, name): value for name, value in found.items() if value}
