"""What the two Jobs of a run have in common: the table of exit codes as a failure policy, and Kueue."""

from typing import Any

from sam3ft_api.exit_codes import EXIT_RULES, ExitCode
from sam3ft_launch.kubernetes.objects.trainer_pod import CONTAINER

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
ELASTIC_ANNOTATION = "kueue.x-k8s.io/elastic-job"
VERDICTS = sorted(int(code) for code, rule in EXIT_RULES.items() if rule.is_verdict)
"""Codes that end a run for good."""
IGNORED = [int(ExitCode.INTERRUPTED), int(ExitCode.FENCED)]
"""Codes of a pod that has done nothing wrong: it was asked to stop, or another one has its place."""


def failure_policy() -> dict[str, Any]:
    """Return the rules for a failed pod; the first one that fits decides, and what fits none is counted.

    The disruption comes first: a pod that is evicted may end with any code.
    """
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": _codes(IGNORED)},
            {"action": "FailJob", "onExitCodes": _codes(VERDICTS)},
        ]
    }


def _codes(values: list[int]) -> dict[str, Any]:
    return {"containerName": CONTAINER, "operator": "In", "values": values}


def queued(labels: dict[str, str], queue: str) -> dict[str, str]:
    """Return the labels of an object that waits in a queue of Kueue; the same labels without a queue."""
    return {**labels, QUEUE_LABEL: queue} if queue else labels
