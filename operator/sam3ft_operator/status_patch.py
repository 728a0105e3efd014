"""The difference between the status that was read and the one that should be there, as a merge patch; pure."""

from collections.abc import Mapping
from typing import Any

from sam3ft_api.status import SAM3FineTuneStatus

FOREIGN = ("slurm",)
"""Fields that somebody else writes; they are never touched."""


def status_patch(before: Mapping[str, Any], after: SAM3FineTuneStatus) -> dict[str, Any]:
    """Return what a merge patch of the status must say; empty when nothing differs.

    A field that `after` does not have is removed by null, so that after the patch the status is exactly `after`,
    `FOREIGN` fields apart. Lists are replaced as a whole.

    Args:
        before: the status as plain JSON, as it was read.
        after: what it should be.
    """
    wanted = after.model_dump(mode="json", by_alias=True, exclude_none=True)
    known = {name: value for name, value in before.items() if name not in FOREIGN}
    wanted = {name: value for name, value in wanted.items() if name not in FOREIGN}
    return _difference(known, wanted)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := _difference(old, value):
                patch[name] = inner
        elif name not in before or value != old:
            patch[name] = value
    return patch
