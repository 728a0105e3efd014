"""All runs: who trains, who waits, what is lost to what, and which sites are heard of."""

from dashboards.panels import Panel, Query, Row, Variable, dashboard_json

UID = "sam3ft-fleet"
_ALL = 'namespace=~"$namespace"'


def _runs(metric: str, *labels: str, where: str = "") -> str:
    """Return one series for each run: every replica of the operator shows what a status holds."""
    return f"max by ({', '.join(('namespace', 'job_name', *labels))}) ({metric}{{{_ALL}{', ' * bool(where)}{where}}})"


def _wait(share: float) -> str:
    buckets = "sum by (le) (increase(sam3ft_job_queue_wait_seconds_bucket[$__range]))"
    return f"histogram_quantile({share}, {buckets})"


_RUN_PAGE = (
    "/d/sam3ft-run?var-datasource=${datasource}&var-namespace=${__data.fields.Namespace}"
    "&var-run=${__data.fields.Run}&${__url_time_range}"
)
"""Where a run's name leads: to its own dashboard, with the same data source and time."""
_QUEUED = _runs("sam3ft_job_phase", where='phase="Queued"')
_NOW = Row(
    "Now",
    (
        Panel(
            "bars",
            "Runs by phase",
            "Of the chosen namespaces; a phase without a run is absent.",
            "short",
            (Query(f"count by (phase) ({_runs('sam3ft_job_phase', 'phase')})", "{{phase}}"),),
            width=6,
            thresholds=((None, "blue"),),
            decimals=0,
        ),
        Panel(
            "table",
            "Runs",
            "Everything that is there, with progress, time to the end, goodput. A run's name leads to its dashboard.",
            "short",
            (
                Query(_runs("sam3ft_job_phase", "phase")),
                Query(_runs("sam3ft_job_progress_ratio")),
                Query(_runs("sam3ft_job_eta_seconds")),
                Query(_runs("sam3ft_job_goodput_ratio")),
                Query(_runs("sam3ft_job_nodes_ready")),
            ),
            width=18,
            columns={
                "namespace": "Namespace",
                "job_name": "Run",
                "phase": "Phase",
                "Value #B": "Progress",
                "Value #C": "Time to the end",
                "Value #D": "Goodput",
                "Value #E": "Nodes",
            },
            units={"Progress": "percentunit", "Time to the end": "s", "Goodput": "percentunit"},
            links={"Run": _RUN_PAGE},
        ),
    ),
)
_USE = Row(
    "What the machines do",
    (
        Panel(
            "areas",
            "Runs over time, by phase",
            "Queued without an end is too little room; Restarting is something that fails again and again.",
            "short",
            (Query(f"count by (phase) ({_runs('sam3ft_job_phase', 'phase')})", "{{phase}}"),),
            width=12,
            least=0.0,
        ),
        Panel(
            "areas",
            "Processes that train, by namespace",
            "One for each GPU; nodes times GPUs of the runs that take part now.",
            "short",
            (Query(f"sum by (namespace) ({_runs('sam3ft_job_processes')})", "{{namespace}}"),),
            width=12,
            least=0.0,
        ),
        Panel(
            "number",
            "GPU-hours in the time shown",
            "Processes that took part, one for each GPU, over the time shown; a run on CPUs counts its processes too.",
            "short",
            (
                Query(
                    f"sum_over_time(sum({_runs('sam3ft_job_processes')})[$__range:$__interval])"
                    " * $__interval_ms / 3600000"
                ),
            ),
            width=6,
            height=5,
            decimals=1,
        ),
        Panel(
            "number",
            "Waited in the queue, median",
            "From the submission of an attempt until it ran, of those that began in the time shown.",
            "s",
            (Query(_wait(0.5)),),
            width=6,
            height=5,
            decimals=0,
        ),
        Panel(
            "number",
            "Waited in the queue, 95th percentile",
            "As the median beside it; the tail is what people remember.",
            "s",
            (Query(_wait(0.95)),),
            width=6,
            height=5,
            decimals=0,
        ),
        Panel(
            "number",
            "Waiting now",
            "Runs in phase Queued.",
            "short",
            (Query(f"count({_QUEUED}) or vector(0)"),),
            width=6,
            height=5,
            decimals=0,
        ),
    ),
)
_LOST = Row(
    "What is lost",
    (
        Panel(
            "curves",
            "Goodput, by run",
            "Share of a run's time in which kept training was done. Below a half: look at the causes beside it.",
            "percentunit",
            (Query(_runs("sam3ft_job_goodput_ratio"), "{{namespace}}/{{job_name}}"),),
            least=0.0,
            most=1.0,
        ),
        Panel(
            "bars",
            "Time lost, by cause",
            "Over all runs that are there, since each one's start: queue, start, restart, stall, steps done again.",
            "s",
            (Query(f"sum by (cause) ({_runs('sam3ft_job_lost_seconds_total', 'cause')})", "{{cause}}"),),
            thresholds=((None, "orange"),),
        ),
        Panel(
            "bars",
            "Ended attempts, by reason",
            "In the time shown; docs/exit-codes.md says what each reason means and who can do something about it.",
            "short",
            (
                Query(
                    "sum by (reason) (increase(sam3ft_attempts_ended_total[$__range])) > 0 or on () "
                    'label_replace(vector(0), "reason", "none", "", "")',
                    "{{reason}}",
                ),
            ),
            thresholds=((None, "purple"),),
            decimals=0,
        ),
        Panel(
            "table",
            "What is wrong now",
            "Conditions that are not as they should be, by run; docs/runbook.md says what to do.",
            "short",
            (Query(_runs("sam3ft_job_problem", "type", "reason")),),
            width=16,
            columns={"namespace": "Namespace", "job_name": "Run", "type": "Condition", "reason": "Reason"},
            links={"Run": _RUN_PAGE},
        ),
        Panel(
            "curves",
            "Silence of SLURM sites",
            "Since an agent's last sign of life, of sites that have runs. Above a minute its jobs go on unseen.",
            "s",
            (
                Query(
                    f"max by (namespace, site) (sam3ft_site_silence_seconds{{{_ALL}}})",
                    "{{namespace}}/{{site}}",
                ),
            ),
            least=0.0,
        ),
    ),
)


def fleet() -> tuple[str, str]:
    """Return the dashboard's name and its JSON."""
    text = dashboard_json(
        UID,
        "sam3ft / Fleet",
        "All fine-tuning runs: who trains, who waits, what is lost to what, and which sites are heard of.",
        variables=(Variable("namespace", "Namespace", "label_values(sam3ft_job_info, namespace)", is_many=True),),
        rows=(_NOW, _USE, _LOST),
        since="now-24h",
    )
    return "fleet", text
