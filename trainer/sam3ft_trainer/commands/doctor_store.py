"""`doctor ADDRESS`: what a store can do, as a table or JSON; 0 when checkpoints can be kept there, else 13."""

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.training import StorageConfig
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.survey import Survey, survey


def inspect_store(address: str, *, profile: str, output: str) -> int:
    """Try a store, print what was found and return the exit code.

    Raises:
        InvalidConfig: the address or the profile is wrong, or the profile refuses the endpoint.
    """
    found = survey(address, run_access(StorageConfig(profile=profile), os.environ))
    if output == "json":
        sys.stdout.write(json.dumps(document(found, profile=profile)) + "\n")
    else:
        sys.stdout.write("\n".join(lines(found)) + "\n")
    return int(ExitCode.STORAGE_DENIED if found.missing else ExitCode.SUCCEEDED)


def document(found: Survey, *, profile: str) -> dict[str, Any]:
    """Return the findings as JSON values; `message` says why checkpoints cannot be kept there."""
    return {
        "address": found.address,
        "endpoint": found.endpoint,
        "profile": profile,
        "usable": not found.missing,
        "message": found.reason,
        "findings": [asdict(finding) for finding in found.findings],
        "speed": {name: round(value, 3) for name, value in found.speed.items()},
    }


def lines(found: Survey) -> list[str]:
    """Return the findings for people, one a line."""
    rows = [f"{finding.name:<38}{finding.state:<9}{finding.detail}" for finding in found.findings]
    verdict = "checkpoints can be kept there" if not found.missing else f"NOT usable for checkpoints: {found.reason}"
    return [f"{found.address} at {found.endpoint or 'this machine'}", *rows, verdict]
