"""When an event was last seen: two API groups and two generations of clients write it into different fields."""

from collections.abc import Mapping
from typing import Any


def last_seen(event: Mapping[str, Any]) -> str:
    """Return the newest time that an event of the API server bears, RFC 3339 as it was sent; empty without any."""
    created = (event.get("metadata") or {}).get("creationTimestamp")
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or created or "")
