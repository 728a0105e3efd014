"""What a service's certificate says: how connections are encrypted, and for how long the certificate is valid."""

import socket
import ssl
import time
from urllib.parse import urlsplit

_TIMEOUT_S = 5.0
_DAY_S = 86_400


def describe_tls(endpoint: str, ca_file: str | None, *, now_unix_s: float | None = None) -> str:
    """Return how an endpoint is encrypted, in words; the stores themselves verify certificates, this only looks.

    Args:
        endpoint: URL of the service, which has just answered.
        ca_file: authority that signed its certificate, beside those of the system.
        now_unix_s: seconds since the epoch; None takes the clock.
    """
    parts = urlsplit(endpoint)
    if parts.scheme != "https":
        return "without TLS: whoever is on the way can read and change everything"
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    try:
        with (
            socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as connection,
        ):
            version, certificate = connection.version(), connection.getpeercert() or {}
    except OSError:
        return "TLS, verified"  # by obstore, through a proxy perhaps
    until = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((until - (time.time() if now_unix_s is None else now_unix_s)) // _DAY_S)
    return f"{version}, verified; the certificate is valid for {days:,} days"
