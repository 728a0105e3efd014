"""Words of the launcher's command line that are the same wherever it runs; docs/elastic.md explains each."""

from sam3ft_api.plan import RestartBudget

LAUNCHER_MODULE = "sam3ft_trainer.run.launcher"
KILL_MARGIN_S = 10.0
"""Seconds between the launcher's killing of its workers and its own end by whoever started it."""


def budget_arguments(budget: RestartBudget) -> list[str]:
    """Return the failure policy."""
    return [
        *("--max-restarts", str(budget.max_restarts)),
        *("--restart-window-s", str(budget.window_s)),
        *("--max-without-progress", str(budget.max_without_progress)),
    ]


def grace_arguments(grace_s: float) -> list[str]:
    """Return how long workers may save, within the seconds that the launcher itself has."""
    return ["--eviction-grace-s", f"{max(1.0, grace_s - KILL_MARGIN_S):g}"]
