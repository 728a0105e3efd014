"""s3://: keys from a Secret or the environment, a profile of boto3, or the machine's identity.

obstore reads AWS_ variables by itself and lets AWS_ENDPOINT_URL_S3 win over an endpoint that is passed as such;
therefore every setting that decides where and as whom is passed under the name that wins.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from obstore.store import ObjectStore, S3Store

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.backends import (
    Backends,
    both_clients,
    check_bucket,
    client_options,
    open_endpoint,
    refuse_strangers,
    require,
)
from sam3ft_trainer.store.boto import RENEWED_AFTER, BotoSession
from sam3ft_trainer.store.sources import secrets_of

if TYPE_CHECKING:  # these exist for type checkers only
    from obstore.store import RetryConfig, S3Credential

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_DEFAULT_REGION = "us-east-1"
_IDENTITY = (
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
)
_PASSED_ON = (
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
    "AWS_REQUEST_PAYER",
    "AWS_CHECKSUM_ALGORITHM",
)


def open_s3(bucket: str, prefix: str, access: Access) -> Backends:
    """Make the clients of a bucket.

    Raises:
        InvalidConfig: half a key pair, a malformed or refused endpoint or region, boto3 or its profile is missing.
        StorageUnavailable: the endpoint's name does not resolve.
    """
    values, origin = access.credentials("AWS_")
    boto = BotoSession(access.profile.aws_profile, whose=str(access)) if access.profile.aws_profile else None
    if boto is not None:
        values, origin = {"AWS_REGION": boto.region} if boto.region else {}, f"the AWS profile {boto.name!r}"
    config = _settings(check_bucket(bucket), values, origin, access)
    provider = boto or _provider(access, values, origin)
    secrets = secrets_of(values)
    options = client_options(access)

    def make(retry: "RetryConfig") -> ObjectStore:
        return S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options=options,
            retry_config=retry,
            credential_provider=provider,
        )

    return both_clients(access, make, endpoint=config["aws_endpoint_url_s3"], secrets=secrets)


def _settings(bucket: str, values: Mapping[str, str], origin: str, access: Access) -> Any:
    profile = access.profile
    region = profile.region or values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION") or _DEFAULT_REGION
    if not _REGION.fullmatch(region):
        raise InvalidConfig(f"the region from {origin} is none: expected letters, digits and dashes")
    named = next((values[name] for name in _ENDPOINTS if name in values), None)
    url, whose = (profile.endpoint, str(access)) if profile.endpoint else (named, origin)
    virtual = profile.addressing == "virtual" or (profile.addressing == "auto" and url is None and "." not in bucket)
    base = url or f"https://s3.{region}.amazonaws.com"
    if virtual:
        scheme, _, host = base.rstrip("/").partition("://")
        base = f"{scheme}://{bucket}.{host}"
    endpoint = open_endpoint(access, base, whose, is_own=url is None)
    config = {
        "aws_endpoint_url_s3": endpoint.url,
        "region": region,
        "virtual_hosted_style_request": virtual,
        "skip_signature": profile.anonymous,
        "s3_express": False,
        "conditional_put": "etag",
    }
    config |= {name.lower(): values[name] for name in _PASSED_ON if name in values}
    if not profile.anonymous:
        config |= {name.lower(): values[name] for name in _IDENTITY if name in values}
    return config


def _provider(access: Access, values: Mapping[str, str], origin: str) -> "Callable[[], S3Credential] | None":
    """Return what is asked for credentials; None leaves it to obstore, which asks the machine."""
    if access.profile.anonymous:
        return None
    require(values, KEYS, origin=origin)
    refuse_strangers(values, KEYS, origin=origin)
    return _Renewed(access) if KEYS[0] in values else None


class _Renewed:
    """Reads the keys anew whenever obstore asks, so that a rotated Secret takes effect within seconds."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def __call__(self) -> "S3Credential":
        values, origin = self._access.credentials("AWS_")
        if not all(name in values for name in KEYS):
            raise InvalidConfig(f"{origin} no longer has {' and '.join(KEYS)}")
        return {
            "access_key_id": values[KEYS[0]],
            "secret_access_key": values[KEYS[1]],
            "token": values.get("AWS_SESSION_TOKEN"),
            "expires_at": datetime.now(UTC) + RENEWED_AFTER,
        }
