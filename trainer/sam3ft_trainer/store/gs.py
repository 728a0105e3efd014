"""gs://: a service account's key, a token, application default credentials, or the machine's service account."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from obstore.store import GCSStore, ObjectStore

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.backends import (
    Backends,
    both_clients,
    check_bucket,
    client_options,
    open_endpoint,
    refuse_strangers,
)
from sam3ft_trainer.store.sources import secrets_of

if TYPE_CHECKING:  # this exists for type checkers only
    from obstore.store import RetryConfig

_KEY, _TOKEN = "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN"
_PATHS = ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_APPLICATION_CREDENTIALS")
_DEFAULT = "https://storage.googleapis.com"


def open_gs(bucket: str, prefix: str, access: Access) -> Backends:
    """Make the clients of a bucket; the endpoint in a key's file (`gcs_base_url`) does not count.

    Raises:
        InvalidConfig: the key is no JSON of a service account, the endpoint is malformed or refused.
        StorageUnavailable: the endpoint's name does not resolve.
    """
    check_bucket(bucket)
    values, origin = access.credentials("GOOGLE_")
    profile = access.profile
    url, whose = (profile.endpoint, str(access)) if profile.endpoint else (values.get("GOOGLE_BASE_URL"), origin)
    endpoint = open_endpoint(access, url or _DEFAULT, whose, is_own=url is None)
    config: Any = {"base_url": endpoint.url, "skip_signature": profile.anonymous}
    if not profile.anonymous:
        config |= _credentials(values, origin)
    options = client_options(access)

    def make(retry: "RetryConfig") -> ObjectStore:
        try:
            return GCSStore(bucket, prefix=prefix or None, config=config, client_options=options, retry_config=retry)
        except Exception:  # noqa: BLE001 - whatever obstore says of a key may repeat it
            raise InvalidConfig(
                f"{origin} holds Google credentials that cannot be read; expected the JSON of a service account with "
                "client_email, private_key_id and an RSA private_key in PEM"
            ) from None

    secrets = (*secrets_of(values), *_inner_secrets(values))
    return both_clients(access, make, endpoint=endpoint.url, secrets=secrets)


def _credentials(values: Mapping[str, str], origin: str) -> dict[str, str]:
    refuse_strangers(values, (_KEY, _TOKEN, *_PATHS), origin=origin)
    if _KEY in values:
        return {"service_account_key": values[_KEY]}
    if _TOKEN in values:
        return {"bearer_token": values[_TOKEN]}
    path = next((values[name] for name in _PATHS if name in values), None)
    if path is not None and path.lstrip().startswith("{"):
        return {"service_account_key": path}  # the file of a Secret holds the key itself
    return {} if path is None else {"application_credentials": path}


def _inner_secrets(values: Mapping[str, str]) -> tuple[str, ...]:
    """The private key inside a service account's JSON, also line by line."""
    for name in (_KEY, *_PATHS):
        try:
            key = json.loads(values.get(name, ""))["private_key"]
        except (ValueError, KeyError, TypeError):
            continue
        return (key, *(line for line in str(key).splitlines() if len(line) > 16 and "-----" not in line))
    return ()
