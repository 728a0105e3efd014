"""Storage profiles: what the administrator says of an object store, so that a run names a profile and nothing more.

A file of profiles (YAML 1.2) is named by `SAM3FT_STORAGE_PROFILES`; without it the file of the user is read where there
is one (`~/.config/sam3ft/storage.yaml`), else every profile is the cloud's own endpoint. Secrets never stand in it.

    profiles:
      default: {}
      lab:
        endpoint: https://s3.lab.example:7480
        region: lab
        addressing: path
        caFile: /etc/ssl/lab.pem
        allowNetworks: [private]

Addresses that lead into a machine or a cluster (loopback, private, link-local ranges, the cloud's metadata service) are
refused unless the profile allows their kind by name, wherever the endpoint comes from: the file, a Secret's
AWS_ENDPOINT_URL, or a name that resolves there.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from sam3ft_api.fields import DnsLabel, Flag, Positive, Whole
from sam3ft_api.section import SpecSection
from sam3ft_api.yaml import read_as, read_text

DEFAULT_PROFILE = "default"
"""The profile that exists without a file: the cloud's own endpoint."""

Network = Literal["loopback", "private", "link-local"]
"""Kinds of address ranges that need to be allowed: 127.0.0.0/8 and ::1; RFC 1918, RFC 6598 and fc00::/7; 169.254.0.0/16
and fe80::/10."""
Endpoint = Annotated[
    str, StringConstraints(max_length=512, pattern=r"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?$")
]
"""`https://host[:port]`, without path, query or credentials."""


class StorageProfile(SpecSection):
    """How one object store is reached. Credentials come from the environment, a folder of a Secret, or the machine."""

    endpoint: Annotated[
        Endpoint | None,
        Field(description="URL of the service; none is the cloud's own, or the one in the credentials' environment."),
    ] = None
    region: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9-]*$")] = ""
    addressing: Annotated[
        Literal["auto", "path", "virtual"],
        Field(description="Bucket in the path or in the host name (s3); auto is path with an endpoint."),
    ] = "auto"
    ca_file: Annotated[
        str | None,
        Field(max_length=1024, description="PEM file of the authority that signed the service's certificate."),
    ] = None
    allow_http: Annotated[Flag, Field(description="Accept an endpoint without TLS.")] = False
    allow_networks: Annotated[
        tuple[Network, ...], Field(max_length=3, description="Kinds of internal addresses that the endpoint may have.")
    ] = ()
    anonymous: Annotated[Flag, Field(description="Send no credentials: a public bucket.")] = False
    aws_profile: Annotated[
        str,
        Field(
            max_length=128,
            pattern=r"^[A-Za-z0-9._@-]*$",
            description="Profile of ~/.aws/config (SSO, assumed roles), read through boto3.",
        ),
    ] = ""
    connect_timeout_seconds: Annotated[Positive, Field(description="Until a connection stands.")] = 3.0
    request_timeout_seconds: Annotated[
        Positive, Field(description="Until a whole request is answered; a stalled answer is asked for again after it.")
    ] = 20.0
    retries: Annotated[Whole, Field(ge=0, le=100, description="Repetitions of a request within one call.")] = 8

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.endpoint is not None and self.endpoint.startswith("http://") and not self.allow_http:
            raise ValueError(f"endpoint {self.endpoint} has no TLS; use https://, or set allowHttp: true")
        if self.anonymous and self.aws_profile:
            raise ValueError("anonymous sends no credentials, and awsProfile names some; keep one of them")
        return self


class StorageProfiles(SpecSection):
    """The file of profiles."""

    profiles: Annotated[dict[DnsLabel, StorageProfile], Field(max_length=256, default_factory=dict)]


def load_profiles(path: Path) -> dict[str, StorageProfile]:
    """Return the profiles of a file by name; `default` is among them whether or not the file has it.

    Raises:
        InvalidConfig: the file cannot be read, is no YAML 1.2, or holds something else; every problem is listed with
            its line, path, value and what is allowed.
    """
    return parse_profiles(read_text(path), name=str(path))


def parse_profiles(text: str, *, name: str) -> dict[str, StorageProfile]:
    """Return the profiles of a text, as `load_profiles`.

    Args:
        text: content of the file.
        name: what is read, for messages.

    Raises:
        InvalidConfig: as `load_profiles`.
    """
    otherwise = "is no file of storage profiles; see docs/storage.md"
    found = read_as(StorageProfiles, text, name=name, otherwise=otherwise)
    return {DEFAULT_PROFILE: StorageProfile(), **found.profiles}
