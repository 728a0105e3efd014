"""A real Prometheus on a port of its own, with the rules of the chart, and the questions that Grafana would ask it."""

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from ports import free_port
from tools_here import need_tool
from waiting import wait_for

SCRAPE_S = 1


@dataclass(frozen=True, slots=True)
class Target:
    """What is scraped.

    Attributes:
        name: of the scrape job.
        address: host and port.
        labels: given to its series, as a PodMonitor would.
        path: of its answer.
        honors_labels: labels of the series themselves win, as in our ServiceMonitor.
    """

    name: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    path: str = "/metrics"
    honors_labels: bool = False

    def config(self) -> dict[str, Any]:
        return {
            "job_name": self.name,
            "metrics_path": self.path,
            "honor_labels": self.honors_labels,
            "static_configs": [{"targets": [self.address], "labels": dict(self.labels)}],
        }


class PrometheusServer:
    """Scrapes its targets every second, until it is left."""

    def __init__(self, folder: Path, targets: Sequence[Target], *, rules: str = "", every_s: int = SCRAPE_S) -> None:
        """Write its settings.

        Args:
            folder: for settings, data and log.
            targets: what is scraped.
            rules: content of a rule file.
            every_s: between two scrapes.
        """
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rules.yaml").write_text(rules or "groups: []\n")
        self.config = {
            "global": {"scrape_interval": f"{every_s}s", "scrape_timeout": f"{every_s}s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yaml")],
            "scrape_configs": [target.config() for target in targets],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(self.config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready."""
        program = shutil.which("prometheus")
        if program is None:
            need_tool("prometheus is not installed; make components installs it")
        command = [
            str(program),
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for("Prometheus is ready", self._is_ready, within_s=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        if error is not None:
            print((self.folder / "log").read_text()[-5000:])

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ask(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def now(self, expression: str) -> list[dict[str, Any]]:
        """Return the present value of each series of a query."""
        return list(self._ask("query", query=expression)["result"])

    def over_time(self, expression: str, *, seconds: float, step_s: float) -> list[dict[str, Any]]:
        """Return the values of each series of a query over the last seconds."""
        end_s = time.time()
        span = {"start": str(end_s - seconds), "end": str(end_s), "step": str(step_s)}
        return list(self._ask("query_range", query=expression, **span)["result"])

    def targets(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each target, by the name of its scrape job."""
        return {target["labels"]["job"]: target for target in self._ask("targets")["activeTargets"]}

    def kept_series(self) -> int:
        """Return how many series it holds in memory."""
        return int(self._ask("status/tsdb")["headStats"]["numSeries"])

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire."""
        return [alert["labels"] for alert in self._ask("alerts")["alerts"] if alert["state"] == "firing"]


def has_data(result: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether an answer holds at least one number that can be drawn."""
    values = (
        pair[1]
        for series in result
        for pair in (series.get("values") or ([series["value"]] if "value" in series else []))
    )
    return any(math.isfinite(float(value)) for value in values)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a dashboard shows at a moment, in place of its variables.

    Attributes:
        variables: values of the dashboard's own.
        seconds: that it shows.
        step_s: between two points.
    """

    variables: Mapping[str, str]
    seconds: float = 120.0
    step_s: float = 5.0

    def expression(self, text: str) -> str:
        """Return a panel's query with everything in place, as Grafana would send it."""
        own = {
            "__rate_interval": f"{4 * SCRAPE_S + 10}s",
            "__range": f"{self.seconds:.0f}s",
            "__interval": f"{self.step_s:.0f}s",
            "__interval_ms": f"{1000 * self.step_s:.0f}",
        }
        return re.sub(r"\$(\w+)", lambda found: {**own, **self.variables}[found[1]], text)

    def ask(self, server: PrometheusServer, target: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the answer to one query of a panel."""
        text = self.expression(target["expr"])
        if target.get("instant"):
            return server.now(text)
        return server.over_time(text, seconds=self.seconds, step_s=self.step_s)
