"""JSON documents in a run folder that other processes write: read whole, or refused in words."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sam3ft_api.errors import StorageDenied

Document = TypeVar("Document", bound=BaseModel)


def read_document(path: Path, model: type[Document]) -> Document | None:
    """Return a document, None when there is none.

    Raises:
        StorageDenied: the file exists and cannot be read, or is not a document of this version.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageDenied(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    except ValidationError as error:
        raise StorageDenied(
            f"{path} cannot be read: it is no record of this version of sam3ft ({error.error_count()} problems); "
            "name another folder with --run-dir, or remove the file to start anew from the checkpoints"
        ) from error
