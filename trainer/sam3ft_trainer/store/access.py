"""How a store is reached: a profile of the administrator and the credentials of one purpose, never mixed with others.

    checkpoint, export:  SAM3FT_CREDENTIALS_DIR, else the environment
    data, model:         SAM3FT_DATA_CREDENTIALS_DIR, else SAM3FT_DATA_AWS_... and the like, else those of the run

Of these places the first that holds any name of the store's cloud (AWS_, GOOGLE_, AZURE_) gives endpoint, region and
credentials; where it gives no credentials, the machine's identity is asked (web identity, container, instance).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sam3ft_api import worker
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.storage import DEFAULT_PROFILE, StorageProfile, load_profiles
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.store.sources import CLOUDS, Environment, Folder, Source


@dataclass(frozen=True, slots=True)
class Access:
    """A resolved profile and where credentials come from.

    Attributes:
        name: of the profile.
        profile: what it says.
        file: where profiles stand or would stand, for messages.
        sources: places of credentials, the first that knows the cloud counts.
        headers: sent with every request, for trials.
    """

    name: str = DEFAULT_PROFILE
    profile: StorageProfile = field(default_factory=StorageProfile)
    file: Path = Path("~/.config/sam3ft/storage.yaml")
    sources: tuple[Source, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def credentials(self, cloud: str) -> tuple[dict[str, str], str]:
        """Return what the first place that knows a cloud holds for it now, and where that is.

        Args:
            cloud: how its names begin, AWS_, GOOGLE_ or AZURE_.

        Raises:
            InvalidConfig: a folder cannot be read.
        """
        for source in self.sources:
            found = {name: value for name, value in source.values().items() if name.startswith(cloud)}
            if found:
                return found, source.origin
        return {}, "the machine's identity"

    def __str__(self) -> str:
        """Return the words by which messages call the profile."""
        return f"storage profile {self.name!r} ({self.file})"


def run_access(config: StorageConfig, environ: Mapping[str, str]) -> Access:
    """Return how checkpoint and export are reached.

    Args:
        config: names the profile.
        environ: variables of the process; names are in `sam3ft_api.worker`.

    Raises:
        InvalidConfig: there is no such profile, or the file of profiles is wrong.
    """
    return _access(config.profile, environ, _run_sources(environ))


def data_access(config: StorageConfig, environ: Mapping[str, str]) -> Access:
    """Return how data and model are reached, as `run_access`."""
    own: tuple[Source, ...] = ()
    if folder := environ.get(worker.ENV_DATA_CREDENTIALS_DIR):
        own = (Folder(Path(folder)),)
    elif any(name.startswith(tuple(worker.DATA_CREDENTIALS_PREFIX + cloud for cloud in CLOUDS)) for name in environ):
        own = (Environment(environ, worker.DATA_CREDENTIALS_PREFIX),)
    return _access(config.data_profile, environ, (*own, *_run_sources(environ)))


def default_access() -> Access:
    """Return the default profile with the run's credentials from this process's environment; raises as `run_access`."""
    return run_access(StorageConfig(), os.environ)


def _run_sources(environ: Mapping[str, str]) -> tuple[Source, ...]:
    folder = environ.get(worker.ENV_CREDENTIALS_DIR)
    return (Folder(Path(folder)) if folder else Environment(environ),)


def _access(name: str, environ: Mapping[str, str], sources: tuple[Source, ...]) -> Access:
    file, profiles = _profiles(environ)
    if name not in profiles:
        raise InvalidConfig(
            f"storage profile {name!r} is not in {file}; there are {', '.join(sorted(profiles))}. "
            "Name one of them, or ask the administrator to add it"
        )
    return Access(name, profiles[name], file, sources)


def _profiles(environ: Mapping[str, str]) -> tuple[Path, dict[str, StorageProfile]]:
    """Read the file that is named, else the user's where there is one."""
    if named := environ.get(worker.ENV_STORAGE_PROFILES):
        return Path(named), load_profiles(Path(named))
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    file = Path(home) / "sam3ft" / "storage.yaml"
    return file, load_profiles(file) if file.exists() else {DEFAULT_PROFILE: StorageProfile()}
