"""Tokens of attempts."""

import pytest

from sam3ft_api import limits
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.tokens import attempt_token, take_token

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


def test_the_token_leaves_the_environment():
    environ = {"SAM3FT_TOKEN": "0123456789abcdef", "HOME": "/"}

    assert take_token(environ, attempt=1) == "0123456789abcdef"
    assert environ == {"HOME": "/"}


def test_the_key_of_the_run_becomes_the_attempt_s_token_and_leaves_the_environment():
    environ = {"SAM3FT_RUN_KEY": KEY.hex(), "SAM3FT_TOKEN": "0123456789abcdef"}

    assert take_token(environ, attempt=7) == attempt_token(KEY, 7)
    assert environ == {}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "SAM3FT_TOKEN has 0 characters"),
        ({"SAM3FT_TOKEN": "short"}, "SAM3FT_TOKEN has 5 characters"),
        ({"SAM3FT_RUN_KEY": "00ff"}, "SAM3FT_RUN_KEY has 4 characters"),
        ({"SAM3FT_RUN_KEY": "<random>"}, "SAM3FT_RUN_KEY has 8 characters"),
        ({"SAM3FT_RUN_KEY": "0" * 63}, "SAM3FT_RUN_KEY has 63 characters"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_without_quoting_it(environ: dict[str, str], said: str):
    secrets = list(environ.values())

    with pytest.raises(InvalidConfig, match=said) as raised:
        take_token(environ, attempt=1)
    assert not any(secret in str(raised.value) for secret in secrets)
