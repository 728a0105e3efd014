"""The variables by which the libraries of the sinks are told where to send and as whom; no document holds them.

A launcher takes them from the shell, a worker profile's `env` holds those that are no secret, and a Secret of the run
may hold any of them. docs/sinks.md has them by sink.
"""

from collections.abc import Mapping

from sam3ft_api.fields import SinkName

VARIABLES: Mapping[SinkName, tuple[str, ...]] = {
    "wandb": ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE"),
    "mlflow": (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    "otlp": (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
    ),
}
"""Names by sink: what a job takes over, and what is read from the run's Secret."""
SECRETS = frozenset(
    {
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    }
)
"""Those whose values are shown nowhere, whatever a library makes of them."""
