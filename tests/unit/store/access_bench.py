"""How the tests of storage access write profiles and Secrets, and look into what was opened."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3ft_api.training import StorageConfig
from sam3ft_trainer.store.access import Access, data_access, run_access
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.uri import open_store

KEYS = {"AWS_ACCESS_KEY_ID": "plain-id", "AWS_SECRET_ACCESS_KEY": "plain-secret"}
LOCAL = "endpoint: https://127.0.0.1:9000\n    allowNetworks: [loopback]"


def write_profiles(folder: Path, text: str) -> dict[str, str]:
    """Write a file of profiles and return the variable that names it."""
    file = folder / "storage.yaml"
    file.write_text(textwrap.dedent(text))
    return {"SAM3FT_STORAGE_PROFILES": str(file)}


def secret(folder: Path, **values: str) -> Path:
    """Write a folder as a Secret is mounted."""
    folder.mkdir(exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(value + "\n")
    return folder


def pair(name: str) -> dict[str, str]:
    """Keys that tell whose they are."""
    return {"AWS_ACCESS_KEY_ID": f"{name}-id", "AWS_SECRET_ACCESS_KEY": f"{name}-secret"}


def run(environ: Mapping[str, str], profile: str = "default") -> Access:
    """The run's access."""
    return run_access(StorageConfig(profile=profile), environ)


def data(environ: Mapping[str, str], profile: str = "default") -> Access:
    """The data's access."""
    return data_access(StorageConfig(data_profile=profile), environ)


def backend_of(store: Store) -> Any:
    """The client below a store."""
    return store._backend


def keys_of(access: Access) -> tuple[str, str, str | None]:
    """What a store would sign its next request with."""
    given = backend_of(open_store("s3://bucket/x", access=access)).credential_provider()
    return given["access_key_id"], given["secret_access_key"], given["token"]
