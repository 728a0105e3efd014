"""Tokens of attempts."""

import pytest

from sam3ft_api import limits
from sam3ft_api.tokens import attempt_token

KEY = bytes(range(32))


def test_the_token_is_the_hmac_of_the_attempt_s_number():
    """The value of `printf "sam3ft attempt 1" | openssl dgst -sha256 -mac HMAC -macopt hexkey:0001...1f`."""
    assert attempt_token(KEY, 1) == "8129bef3c1950b30caf5cd9389c9ecda7b48f1d9fab4f5cbe89c470311f69340"


def test_every_attempt_and_every_run_has_its_own_and_always_the_same():
    tokens = {attempt_token(key, attempt) for key in (KEY, KEY[::-1]) for attempt in range(1, 51)}

    assert len(tokens) == 100
    assert attempt_token(KEY, 7) in tokens


def test_a_token_is_what_launcher_and_coordinator_accept():
    token = attempt_token(KEY, limits.MAX_ATTEMPT)

    assert limits.MIN_TOKEN_CHARS <= len(token) <= limits.MAX_TOKEN_CHARS
    assert token.isalnum()


@pytest.mark.parametrize(("key", "attempt", "said"), [(b"short", 1, "has 5 bytes"), (KEY, 0, "attempt 0")])
def test_a_short_key_and_an_attempt_that_cannot_be_are_refused(key: bytes, attempt: int, said: str):
    with pytest.raises(ValueError, match=said):
        attempt_token(key, attempt)
