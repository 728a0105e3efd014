"""The operator itself: does it act, does it keep up, and what does the API server say to it."""

from dashboards.panels import Panel, Query, Row, dashboard_json

UID = "sam3ft-operator"


def _rate(metric: str, *labels: str, where: str = "") -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}{where}[$__rate_interval]))"


def _look(share: float) -> str:
    return f"histogram_quantile({share}, {_rate('sam3ft_reconcile_duration_seconds_bucket', 'le')})"


_PROCESSES = "* on (job, instance) group_left () (max by (job, instance) (sam3ft_leader) * 0 + 1)"
"""The same names exist for every process that is scraped; the operator's are those that know who leads."""

_ACTS = Row(
    "Does it act",
    (
        Panel(
            "number",
            "Leaders",
            "One replica holds the Lease and acts. None: nothing starts, nothing is mended. Two: never for long.",
            "short",
            (Query("sum(sam3ft_leader)"),),
            width=4,
            height=5,
            thresholds=((None, "red"), (1.0, "green"), (2.0, "orange")),
            decimals=0,
        ),
        Panel(
            "number",
            "Replicas",
            "That are scraped; two by default, so that one can act within seconds of the other's end.",
            "short",
            (Query("count(sam3ft_leader)"),),
            width=4,
            height=5,
            thresholds=((None, "orange"), (2.0, "green")),
            decimals=0,
        ),
        Panel(
            "curves",
            "Silence of watches",
            "Age of the newest sign of each watch. Above five minutes the operator no longer sees what happens.",
            "s",
            (Query("max by (kind) (sam3ft_watch_silence_seconds)", "{{kind}}"),),
            height=5,
            least=0.0,
        ),
        Panel(
            "curves",
            "Failed looks",
            "Looks at a run that ended with an error, a second; each is tried again. The log has the error.",
            "cps",
            (Query(_rate("sam3ft_reconcile_errors_total"), "errors/s"),),
            height=5,
            least=0.0,
        ),
    ),
)
_KEEPS_UP = Row(
    "Does it keep up",
    (
        Panel(
            "curves",
            "Runs waiting for a look",
            "Depth of the leader's queue; it should come back to zero within seconds. Other replicas' are full.",
            "short",
            (Query("sum(sam3ft_queue_depth and on (job, instance) (sam3ft_leader == 1))", "runs"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Looks a second",
            "How often a run is compared with what should be.",
            "ops",
            (Query(_rate("sam3ft_reconcile_duration_seconds_count"), "looks/s"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Duration of a look",
            "Median, 95th and 99th percentile. Mostly answers of the API server.",
            "s",
            (Query(_look(0.5), "p50"), Query(_look(0.95), "p95"), Query(_look(0.99), "p99")),
            least=0.0,
        ),
        Panel(
            "curves",
            "Objects in memory",
            "Children of all runs, by kind.",
            "short",
            (Query("max by (kind) (sam3ft_cached_objects)", "{{kind}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Memory",
            "Resident memory of each replica; flat, but for the number of runs.",
            "bytes",
            (Query(f"process_resident_memory_bytes {_PROCESSES}", "{{instance}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "CPU",
            "Cores that each replica keeps busy.",
            "short",
            (Query(f"rate(process_cpu_seconds_total[$__rate_interval]) {_PROCESSES}", "{{instance}}"),),
            least=0.0,
        ),
    ),
)
_SERVER = Row(
    "What the API server says",
    (
        Panel(
            "curves",
            "Requests a second, by verb",
            "Of all replicas.",
            "reqps",
            (Query(_rate("sam3ft_api_requests_total", "verb"), "{{verb}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Answers a second, by code",
            "409 is a race that was lost and is tried again; 403 a right that is missing; 429 the server's own limits; "
            "0 no answer.",
            "reqps",
            (Query(_rate("sam3ft_api_requests_total", "code"), "{{code}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Complete lists, and what they mended",
            "Lists are made every few minutes in case a watch has missed something; a correction is such a case.",
            "short",
            (
                Query(_rate("sam3ft_watch_relists_total") + " * 60", "lists a minute"),
                Query(_rate("sam3ft_resync_corrections_total") + " * 60", "corrections a minute"),
            ),
            least=0.0,
        ),
        Panel(
            "curves",
            "Events not told",
            "Dropped because there were too many; statuses still say everything.",
            "cps",
            (Query(_rate("sam3ft_events_dropped_total"), "events/s"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Questions without an answer",
            "To coordinators, for progress. A few are starts and ends; many are a NetworkPolicy or lost nodes.",
            "cps",
            (Query(_rate("sam3ft_progress_unanswered_total"), "questions/s"),),
            least=0.0,
        ),
    ),
)


def operator() -> tuple[str, str]:
    """Return the dashboard's name and its JSON."""
    text = dashboard_json(
        UID,
        "sam3ft / Operator",
        "The operator: does it act, does it keep up, and what does the API server say to it.",
        variables=(),
        rows=(_ACTS, _KEEPS_UP, _SERVER),
    )
    return "operator", text
