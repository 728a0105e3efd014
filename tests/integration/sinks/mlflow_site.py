"""MLflow's own tracking server on a port of 127.0.0.1, with SQLite behind it.

    python mlflow_site.py PORT FOLDER

`mlflow server` starts the same application beside a gateway for language models, which needs 400 MB of libraries more.
"""

import os
import sys
import urllib.request
from pathlib import Path


def serve(port: int, folder: Path) -> None:
    """Serve until killed."""
    os.environ |= {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "artifacts"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    from mlflow.server import app  # noqa: PLC0415 - reads the variables
    from werkzeug.serving import make_server  # noqa: PLC0415

    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


def is_ready(address: str) -> bool:
    """Say whether the server answers."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310 - of this machine
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
