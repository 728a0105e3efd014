"""The alerts that the chart ships, as a rule file of Prometheus; each has a chapter in docs/runbook.md.

    python tools/chart/generate.py        writes charts/sam3ft/files/alerts.yaml from here

Every alert names the run (`namespace`, `job_name`) or the operator's replica that it is about, says what it sees with
its value, and is silent for what has no series: a run that has not begun, or one that is gone.
"""

from dataclasses import dataclass

from sam3ft_api.crd import to_yaml

RUNBOOK = "https://github.com/sam3ft/sam3ft/blob/main/docs/runbook.md"
_RUN = "{{ $labels.namespace }}/{{ $labels.job_name }}"
_RUNS = 'on (namespace, job_name) sam3ft_job_phase{phase="Running"} == 1'
"""While a run is in phase Running; both programs' series of a run have these labels."""


def _running_since(span: str) -> str:
    """Return a condition on a run's expression: it is in phase Running, and was so long ago.

    A run that comes back from a pause has old figures until its first step.
    """
    running = 'sam3ft_job_phase{phase="Running"}'
    return f"{_RUNS} and on (namespace, job_name) {running} offset {span} == 1"


def _run(metric: str) -> str:
    """Return one series for each run: every replica of the operator shows what a status holds."""
    return f"max by (namespace, job_name) ({metric})"


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule.

    Attributes:
        name: CamelCase, without the prefix that all have.
        expression: PromQL; a result is a reason to alert.
        hold: how long it must have one.
        severity: critical (somebody gets up), warning (somebody looks today) or info.
        summary: one line with labels and value.
        group: of rules, by what they are about.
    """

    name: str
    expression: str
    hold: str
    severity: str
    summary: str
    group: str = "runs"

    def rule(self) -> dict[str, object]:
        """Return the rule as Prometheus reads it."""
        return {
            "alert": f"Sam3ft{self.name}",
            "expr": self.expression,
            "for": self.hold,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook_url": f"{RUNBOOK}#{self.name.lower()}"},
        }


ALERTS = (
    Alert(
        "TrainingStalled",
        f"time() - {_run('sam3ft_job_last_step_timestamp_seconds')} > 900 and {_running_since('15m')} "
        'unless on (namespace, job_name) sam3ft_train_state{state=~"evaluating|exporting"} == 1',
        "1m",
        "critical",
        _RUN + " is Running and has finished no step for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "LossNotFinite",
        _run("delta(sam3ft_train_skipped_steps[15m])") + " > 0",
        "0m",
        "warning",
        _RUN + " has skipped {{ $value | humanize }} updates in 15 minutes: loss or gradient was not finite.",
    ),
    Alert(
        "CheckpointStale",
        f"time() - {_run('sam3ft_job_checkpoint_timestamp_seconds')} > 3600 and {_running_since('1h')}",
        "5m",
        "warning",
        _RUN + " would lose {{ $value | humanizeDuration }} of training: its newest checkpoint is that old.",
    ),
    Alert(
        "RestartLoop",
        _run("increase(sam3ft_job_restarts_total[1h])") + " >= 3",
        "0m",
        "warning",
        _RUN + " has been restarted {{ $value | humanize }} times within an hour.",
    ),
    Alert(
        "RunUnschedulable",
        'max by (namespace, job_name, reason) (sam3ft_job_problem{reason=~"Unschedulable|QuotaExceeded"}) > 0',
        "10m",
        "warning",
        _RUN + " cannot start: {{ $labels.reason }}; sam3ft explain {{ $labels.job_name }} says what to change.",
    ),
    Alert(
        "QueueWaitHigh",
        _run('sam3ft_job_phase{phase="Queued"}') + " == 1",
        "4h",
        "info",
        _RUN + " has waited in its queue for more than four hours.",
    ),
    Alert(
        "GoodputLow",
        f"{_run('sam3ft_job_goodput_ratio')} < 0.5 and {_RUNS}",
        "30m",
        "warning",
        _RUN + " keeps only {{ $value | humanizePercentage }} of its time as training.",
    ),
    Alert(
        "DataWaitHigh",
        "sum by (namespace, job_name) (rate(sam3ft_train_data_wait_seconds_total[15m])) "
        "/ sum by (namespace, job_name) (rate(sam3ft_train_step_duration_seconds_sum[15m])) > 0.25",
        "15m",
        "info",
        _RUN + " waits for images for {{ $value | humanizePercentage }} of its steps' time.",
    ),
    Alert(
        "BridgeLost",
        'max by (namespace, job_name, reason) (sam3ft_job_problem{reason=~"AgentSilent|NoAgent"}) > 0',
        "5m",
        "critical",
        "The agent of " + _RUN + "'s site gives no sign of life ({{ $labels.reason }}); its jobs go on unseen.",
        group="sites",
    ),
    Alert(
        "SchedulerUnreachable",
        'max by (namespace, job_name) (sam3ft_job_problem{reason="SchedulerSilent"}) > 0',
        "10m",
        "warning",
        "SLURM does not answer the agent of " + _RUN + "'s site.",
        group="sites",
    ),
    Alert(
        "OperatorErrors",
        "rate(sam3ft_reconcile_errors_total[10m]) > 0.05",
        "10m",
        "warning",
        'The operator {{ $labels.pod }} fails at {{ printf "%.2f" $value }} looks at runs a second.',
        group="operator",
    ),
    Alert(
        "OperatorWatchStale",
        "sam3ft_watch_silence_seconds > 300",
        "5m",
        "critical",
        "The operator {{ $labels.pod }} has heard nothing of {{ $labels.kind }} for {{ $value | humanizeDuration }}.",
        group="operator",
    ),
    Alert(
        "NoLeader",
        "sum(sam3ft_leader) < 1 or absent(sam3ft_leader)",
        "2m",
        "critical",
        "No replica of the operator acts: nothing starts, and nothing that fails is mended.",
        group="operator",
    ),
)
"""All alerts, by group."""


def rule_file() -> str:
    """Return the content of a rule file, which is also what a PrometheusRule has as its spec."""
    groups = dict.fromkeys(alert.group for alert in ALERTS)
    return to_yaml(
        {
            "groups": [
                {"name": f"sam3ft-{group}", "rules": [alert.rule() for alert in ALERTS if alert.group == group]}
                for group in groups
            ]
        }
    )
