"""What every object of a run carries: name, labels, owner, and digests of what it was made from."""

import hashlib
from typing import Any

from sam3ft_api import names
from sam3ft_api.plan import JobPlan
from sam3ft_api.spec import API_VERSION, KIND

WHOLE_RUN = 0
"""Attempt in the label of objects that serve every attempt of a run."""


def labels(plan: JobPlan, *, role: str, attempt: int) -> dict[str, str]:
    """Return the labels of an object or pod.

    Args:
        plan: of the attempt.
        role: preflight, coordinator or worker.
        attempt: number of the attempt, or `WHOLE_RUN`.
    """
    return {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_PART_OF: names.MANAGER,
        names.LABEL_COMPONENT: role,
        names.LABEL_RUN: names.run_label(plan.name),
        names.LABEL_UID: plan.uid,
        names.LABEL_ATTEMPT: str(attempt),
        names.LABEL_ROLE: role,
    }


def selector(plan: JobPlan, *, role: str) -> dict[str, str]:
    """Return the labels that select the pods of a role of this run, whatever the attempt; names are given again."""
    return {names.LABEL_UID: plan.uid, names.LABEL_ROLE: role}


def metadata(plan: JobPlan, name: str, *, role: str, attempt: int) -> dict[str, Any]:
    """Return the metadata of an object that belongs to the resource and goes with it.

    Args:
        plan: of the attempt.
        name: of the object.
        role: preflight, coordinator or worker.
        attempt: number of the attempt, or `WHOLE_RUN`.
    """
    return {
        "name": name,
        "namespace": plan.namespace,
        "labels": labels(plan, role=role, attempt=attempt),
        "annotations": {
            names.ANNOTATION_OWNER: f"{plan.namespace}/{plan.name}",
            names.ANNOTATION_PLAN: digest(plan.model_dump_json()),
            names.ANNOTATION_CONFIG: digest(plan.config.model_dump_json()),
        },
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": plan.name,
                "uid": plan.uid,
                # With a controller `kubectl drain` passes the coordinator's pod.
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }


def digest(text: str) -> str:
    """Return the SHA-256 of a text as hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
