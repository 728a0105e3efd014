"""The secret that launchers and coordinator of one attempt share, derived from the key of the run."""

import hashlib
import hmac

from sam3ft_api import limits

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
