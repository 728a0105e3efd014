"""The secret that launchers and coordinator of one attempt share: given, or derived from the key of the run."""

import hashlib
import hmac
from collections.abc import MutableMapping

from sam3ft_api import limits
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.worker import ENV_RUN_KEY, ENV_TOKEN

MIN_KEY_BYTES = 16
"""Bytes below which a run's key could be guessed."""


def attempt_token(key: bytes, attempt: int) -> str:
    """Return the token of an attempt: 64 hex digits, the HMAC-SHA-256 of the attempt's number.

    Equal arguments give equal tokens on every machine. Whoever has one attempt's token can tell neither the key nor any
    other attempt's, so a pod that outlives its attempt cannot join the next one.

    Args:
        key: secret of the run, random bytes.
        attempt: from 1.

    Raises:
        ValueError: the key is too short to be a secret, or there is no such attempt.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"the key of a run has {len(key)} bytes; {MIN_KEY_BYTES} or more random ones are needed")
    if not 1 <= attempt <= limits.MAX_ATTEMPT:
        raise ValueError(f"attempt {attempt} is not within 1 to {limits.MAX_ATTEMPT}")
    return hmac.new(key, b"sam3ft attempt %d" % attempt, hashlib.sha256).hexdigest()


def take_token(environ: MutableMapping[str, str], *, attempt: int) -> str:
    """Take the attempt's token, or the run's key from which it is derived, out of an environment.

    Afterwards neither stands there, so that no child inherits it. The key wins where both are given.

    Args:
        environ: of the process, usually `os.environ`; changed.
        attempt: number of the attempt.

    Raises:
        InvalidConfig: both are missing, or what is there cannot be a secret; it is never quoted.
    """
    token, key = environ.pop(ENV_TOKEN, ""), environ.pop(ENV_RUN_KEY, "")
    if key:
        try:
            return attempt_token(bytes.fromhex(key), attempt)
        except ValueError:
            raise InvalidConfig(
                f"the environment variable {ENV_RUN_KEY} has {len(key)} characters; set it to an even number of hex "
                f"digits, {2 * MIN_KEY_BYTES} or more random ones, the same for the coordinator and its launchers"
            ) from None
    if not limits.MIN_TOKEN_CHARS <= len(token) <= limits.MAX_TOKEN_CHARS:
        raise InvalidConfig(
            f"the environment variable {ENV_TOKEN} has {len(token)} characters; set it to {limits.MIN_TOKEN_CHARS} to "
            f"{limits.MAX_TOKEN_CHARS} random ones, the same for the coordinator and its launchers"
        )
    return token
