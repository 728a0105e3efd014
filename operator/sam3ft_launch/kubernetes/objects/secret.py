"""The Secret with the key of a run: made once by the operator, which never reads it back."""

import base64
from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_api.tokens import MIN_KEY_BYTES
from sam3ft_launch.kubernetes.objects.metadata import WHOLE_RUN, metadata

KEY_FIELD = "key"
"""Entry of the Secret that holds the key, as hex digits."""
PLACEHOLDER = "<random>"
"""What stands where the key belongs; too short to be one, so that nobody can join a run whose key was never made."""


def token_secret(plan: JobPlan) -> dict[str, Any]:
    """Return the Secret, with `PLACEHOLDER` for the key."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(plan, names.token_name(plan.name), role=names.ROLE_COORDINATOR, attempt=WHOLE_RUN),
        "type": "Opaque",
        "immutable": True,
        "stringData": {KEY_FIELD: PLACEHOLDER},
    }


def with_key(secret: dict[str, Any], key: bytes) -> dict[str, Any]:
    """Return a rendered Secret with the run's key filled in; the argument stays as it is.

    Args:
        secret: made by `token_secret`.
        key: random bytes that nobody else knows, made once for each run.

    Raises:
        ValueError: the key is too short to be a secret, or the object is no such Secret.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"the key of a run has {len(key)} bytes; {MIN_KEY_BYTES} or more random ones are needed")
    if secret.get("stringData") != {KEY_FIELD: PLACEHOLDER}:
        raise ValueError(f"{secret.get('kind')} {secret.get('metadata', {}).get('name')} has no place for a key")
    rest = {name: value for name, value in secret.items() if name != "stringData"}
    return {**rest, "data": {KEY_FIELD: base64.b64encode(key.hex().encode()).decode()}}
