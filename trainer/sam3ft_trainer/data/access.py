"""How one process reaches its data: object stores by address, the node's cache, and the figures of reading."""

from collections.abc import Mapping
from pathlib import Path

from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import ENV_CACHE_DIR
from sam3ft_trainer.data.figures import Figures
from sam3ft_trainer.data.imagecache import ImageCache
from sam3ft_trainer.data.remote import ObjectSource
from sam3ft_trainer.store.access import Access, data_access
from sam3ft_trainer.store.objects import with_patience
from sam3ft_trainer.store.uri import Address, open_store


class DataAccess:
    """Sources of one process, each opened and listed once. Opening a folder's data needs none of it.

    Attributes:
        figures: of everything that is read from stores through this object.
        cache_folder: of the node; None caches nothing.
    """

    def __init__(self, config: TrainingConfig, environ: Mapping[str, str]) -> None:
        """Remember how; nothing is opened before an address of a store is asked for.

        Args:
            config: storage profile, outage budget, limit of the cache.
            environ: variables of the process: credentials, profiles, SAM3FT_CACHE_DIR.
        """
        self._config, self._environ = config, environ
        self.figures = Figures()
        folder = environ.get(ENV_CACHE_DIR)
        self.cache_folder = Path(folder) if folder else None
        self._access: Access | None = None
        self._sources: dict[str, ObjectSource] = {}
        self._cache: ImageCache | None = None
        self._cache_problem = ""

    def source(self, address: Address) -> ObjectSource:
        """Return the objects below an address in a store; the same source each time.

        Raises:
            InvalidConfig: there is no such storage profile, or it does not fit the address.
            StorageUnavailable: the endpoint's name does not resolve.
        """
        name = str(address)
        if name not in self._sources:
            access, outage_s = self._resolved(), self._config.runtime.outage_s
            store = with_patience(lambda: open_store(address, access=access), outage_s=outage_s)
            self._open_cache()
            self._sources[name] = ObjectSource(
                store,
                identity=self.identity(address),
                figures=self.figures,
                outage_s=outage_s,
                cache=self._cache,
            )
        return self._sources[name]

    def identity(self, address: Address) -> str:
        """Return what tells a place from any other of the same address: profile, endpoint, account."""
        access = self._resolved()
        cloud = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}[address.scheme]
        known, _ = access.credentials(cloud)
        where = [f"{key}={known[key]}" for key in sorted(known) if "ENDPOINT" in key or key.endswith("ACCOUNT_NAME")]
        return "\x1f".join([access.name, access.profile.endpoint or "", *where, str(address)])

    def describe_cache(self) -> dict[str, object]:
        """Return folder, limit and used bytes of the node's cache, or why there is none; {} while no store is read."""
        if not self._sources:
            return {}
        if self._cache is None:
            reason = self._cache_problem or f"{ENV_CACHE_DIR} is not set"
            return {"folder": None, "reason": f"{reason}; every epoch reads the store anew"}
        failure = {"failure": self._cache.failure} if self._cache.failure else {}
        used, limit = self._cache.used_bytes, self._cache.limit_bytes
        return {"folder": str(self.cache_folder), "used_bytes": used, "limit_bytes": limit, **failure}

    def close(self) -> None:
        """Let go of the node's cache; nothing may be read afterwards."""
        if self._cache is not None:
            self._cache.close()

    def _resolved(self) -> Access:
        if self._access is None:
            self._access = data_access(self._config.storage, self._environ)
        return self._access

    def _open_cache(self) -> None:
        if self.cache_folder is None or self._cache is not None or self._cache_problem:
            return
        try:
            limit = self._config.runtime.cache_bytes
            self._cache = ImageCache(self.cache_folder, self.figures, limit_bytes=limit)
        except OSError as error:
            self.figures.add(cache_failures=1)
            self._cache_problem = f"the cache folder {self.cache_folder} cannot be used ({error.strerror or error})"
