"""Credentials of a profile in ~/.aws/config, by boto3: SSO, assumed roles, credential processes.

boto3 is optional (`sam3ft[aws]`) and does nothing but this; obstore moves the data.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sam3ft_api.errors import InvalidConfig

if TYPE_CHECKING:  # this exists for type checkers only
    from obstore.store import S3Credential

RENEWED_AFTER = timedelta(seconds=310)
"""Life that a provider states. obstore asks again when less than five minutes are left: with this, every 10 s."""


class BotoSession:
    """Credentials of one profile; boto3 renews them before they expire."""

    def __init__(self, name: str, *, whose: str) -> None:
        """Open a profile.

        Args:
            name: in ~/.aws/config or ~/.aws/credentials.
            whose: the storage profile that names it, for messages.

        Raises:
            InvalidConfig: boto3 is not installed, there is no such profile, or it yields no credentials.
        """
        self.name = name
        self._whose = whose
        try:
            import boto3  # noqa: PLC0415 - optional
        except ImportError:
            raise InvalidConfig(
                f"{whose} has awsProfile {name!r}, which boto3 reads, and boto3 is not installed; install it with: "
                "pip install 'sam3ft[aws]'"
            ) from None
        self._credentials, self.region = self._open(boto3)

    def _open(self, boto3: Any) -> tuple[Any, str]:
        try:
            session = boto3.Session(profile_name=self.name)
            credentials = session.get_credentials()
        except Exception as error:  # noqa: BLE001 - botocore has no common base for all of them
            raise self._failure(error) from None
        if credentials is None:
            raise InvalidConfig(f"{self._whose}: the AWS profile {self.name!r} yields no credentials; log in again")
        return credentials, session.region_name or ""

    def __call__(self) -> "S3Credential":
        """Return what is valid now; this is what obstore calls.

        Raises:
            InvalidConfig: they expired and could not be renewed.
        """
        try:
            frozen = self._credentials.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failure(error) from None
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + RENEWED_AFTER,
        }

    def _failure(self, error: Exception) -> InvalidConfig:
        """Name the kind of failure only: botocore's texts may repeat what a credential process printed."""
        return InvalidConfig(
            f"{self._whose}: the AWS profile {self.name!r} gives no credentials ({type(error).__name__}); check "
            "~/.aws/config, or log in again (aws sso login)"
        )
