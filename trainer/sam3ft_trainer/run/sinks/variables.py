"""The environment of the sinks' libraries: what a Secret adds to it, and defaults that keep them quiet and at home."""

from collections.abc import Collection, MutableMapping
from contextlib import suppress
from pathlib import Path

from sam3ft_api.fields import SinkName
from sam3ft_api.sinks import VARIABLES
from sam3ft_api.worker import ENV_CREDENTIALS_DIR

_FOLDERS = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
_DEFAULTS: dict[SinkName, dict[str, str]] = {
    # Errors of the library itself would go to its maker, with the stack.
    "wandb": {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"},
    # Its makers would be told which of its functions are used; and seven retries of two minutes outlive many a run.
    "mlflow": {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "GIT_PYTHON_REFRESH": "quiet",
    },
    # Its own tries within one call; the feed has more of them, and the end of a run does not wait for ten seconds.
    "otlp": {"OTEL_EXPORTER_OTLP_TIMEOUT": "3"},
}


def prepare_environment(sinks: Collection[SinkName], environ: MutableMapping[str, str], folder: Path) -> None:
    """Complete the variables of the enabled sinks; what is set already stays.

    Called before any thread of theirs runs: not every library's code may read the environment while it is written.

    Args:
        sinks: enabled ones.
        environ: of this process; changed.
        folder: for whatever a library keeps on disk.
    """
    credentials = environ.get(ENV_CREDENTIALS_DIR)
    for sink in sinks:
        if credentials:
            for name in VARIABLES[sink]:
                with suppress(OSError, UnicodeDecodeError):
                    environ.setdefault(name, (Path(credentials) / name).read_text().strip())
        for name, value in _DEFAULTS[sink].items():
            environ.setdefault(name, value)
    if "wandb" in sinks:
        for name in _FOLDERS:
            environ.setdefault(name, str(folder / "wandb"))
