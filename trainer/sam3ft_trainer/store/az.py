"""az://: an account's key, a shared access signature, a service principal, a federated or a managed identity."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from obstore.store import AzureStore, ObjectStore

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

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_KINDS = {
    "AZURE_STORAGE_ACCOUNT_KEY": ("access_key", "account_key"),
    "AZURE_STORAGE_SAS_TOKEN": ("sas_token", "sas_key"),
    "AZURE_STORAGE_TOKEN": ("bearer_token", "token"),
    "AZURE_CLIENT_SECRET": ("client_secret", "client_secret"),
    "AZURE_FEDERATED_TOKEN_FILE": ("workload_identity", "federated_token_file"),
}
"""By the name that is present, the first counting: obstore's word for the kind, and for the value."""
_WITH_THEM = {"AZURE_CLIENT_ID": "client_id", "AZURE_TENANT_ID": "tenant_id"}


def open_az(container: str, prefix: str, access: Access) -> Backends:
    """Make the clients of a container.

    Raises:
        InvalidConfig: no or a malformed account, credentials that cannot be read, a malformed or refused endpoint.
        StorageUnavailable: the endpoint's name does not resolve.
    """
    check_bucket(container)
    values, origin = access.credentials("AZURE_")
    profile = access.profile
    account = values.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    if not _ACCOUNT.fullmatch(account):
        raise InvalidConfig(
            f"{origin} names no storage account; give AZURE_STORAGE_ACCOUNT_NAME, 3 to 24 small letters and digits"
        )
    url, whose = (profile.endpoint, str(access)) if profile.endpoint else (values.get("AZURE_STORAGE_ENDPOINT"), origin)
    own = f"https://{account}.blob.core.windows.net"
    endpoint = open_endpoint(access, url or own, whose, is_own=url is None)
    base = f"{endpoint.url}/{account}" if profile.addressing == "path" else endpoint.url
    config: Any = {
        "account_name": account,
        "endpoint": base,
        "use_emulator": False,
        "use_fabric_endpoint": False,
        "skip_signature": profile.anonymous,
    }
    if not profile.anonymous:
        config |= _credentials(values, origin)
    options = client_options(access)

    def make(retry: "RetryConfig") -> ObjectStore:
        try:
            return AzureStore(
                container,
                prefix=prefix or None,
                config=config,
                client_options=options,
                retry_config=retry,
            )
        except Exception:  # noqa: BLE001 - whatever obstore says of a key may repeat it
            raise InvalidConfig(
                f"{origin} holds Azure credentials that cannot be read; expected a key in base64, or a signature "
                "without the question mark"
            ) from None

    return both_clients(access, make, endpoint=endpoint.url, secrets=secrets_of(values))


def _credentials(values: Mapping[str, str], origin: str) -> dict[str, str]:
    refuse_strangers(values, tuple(_KINDS), origin=origin)
    for name, (kind, key) in _KINDS.items():
        if name in values:
            others = {word: values[other] for other, word in _WITH_THEM.items() if other in values}
            return {"credential_type": kind, key: values[name].removeprefix("?"), **others}
    return {"credential_type": "auto"}
