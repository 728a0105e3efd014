"""Curves to an MLflow server or store: one run of theirs for a run of ours, found again by a tag."""

import os
import re
from typing import Any

from sam3ft_trainer.imports import without_collection
from sam3ft_trainer.run.sinks.sink import Point, SinkContext, SinkUnusable

KEY_TAG = "sam3ft.key"
"""Tag by which the next attempt finds the run."""
ADDRESS = "MLFLOW_TRACKING_URI"
_REFUSED = re.compile(r"[^A-Za-z0-9_./ :-]")


class MlflowSink:
    """Sends each point in one call, which the library divides into as many requests as the server takes."""

    def __init__(self) -> None:
        """Hold no run yet."""
        self._client: Any = None
        self._metric: Any = None
        self._run_id = ""

    def open(self, context: SinkContext) -> None:
        """Find the run by its tag or make it, and put down the settings that are not there yet.

        A setting never changes there once it is put down: it keeps the value of the attempt that brought it.

        Raises:
            SinkUnusable: the library is missing, or no address is given.
            Exception: no answer, or a refusal.
        """
        address = os.environ.get(ADDRESS)
        if not address:
            raise SinkUnusable(f"{ADDRESS} is not set; it names the server, as https://mlflow.example")
        try:
            with without_collection():
                from mlflow import MlflowClient  # noqa: PLC0415 - an extra, and a second
                from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415
        except ImportError as error:
            raise SinkUnusable(
                f"mlflow cannot be imported ({error}); install it with: pip install 'sam3ft[mlflow]'"
            ) from error
        self._client, self._metric = MlflowClient(tracking_uri=address), Metric
        experiment = self._experiment(context.project)
        found = self._client.search_runs([experiment], filter_string=f"tags.`{KEY_TAG}` = '{context.key}'")
        tags = {KEY_TAG: context.key, "sam3ft.uid": context.uid, "sam3ft.run": context.run}
        run = found[0] if found else self._client.create_run(experiment, tags=tags, run_name=context.run)
        self._run_id = run.info.run_id
        new = [Param(name, value) for name, value in context.settings.items() if name not in run.data.params]
        self._client.log_batch(self._run_id, params=new, tags=[RunTag("sam3ft.attempt", str(context.attempt))])
        self._client.update_run(self._run_id, status="RUNNING")

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def scalars(self, point: Point) -> None:
        """Send the values; signs that the server refuses in names become `_`."""
        at_ms = int(point.unix_s * 1000)
        metrics = [
            self._metric(_REFUSED.sub("_", name), value, at_ms, point.step) for name, value in point.values.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, *, is_complete: bool) -> None:
        """Mark the run as finished, or as killed: another attempt may take it up again."""
        self._client.set_terminated(self._run_id, status="FINISHED" if is_complete else "KILLED")
