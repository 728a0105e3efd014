"""The wish to end a run, as a file: a signal alone cannot say how much time there is."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sam3ft_api.files import write_atomically


class StopRequest(BaseModel):
    """Save and end.

    Attributes:
        attempt: the attempt that is meant; others ignore the request.
        grace_s: seconds from the signal to the kill.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempt: int
    grace_s: float = Field(ge=0, le=86_400)


def write_stop_request(path: Path, request: StopRequest) -> None:
    """Put the request in place, atomically."""
    write_atomically(path, request.model_dump_json() + "\n")


def read_stop_request(path: Path, *, attempt: int) -> StopRequest | None:
    """Return the request for this attempt, None when there is none."""
    try:
        request = StopRequest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return request if request.attempt == attempt else None
