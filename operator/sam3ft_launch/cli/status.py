"""`sam3ft status`: where a run stands."""

import dataclasses
import time
from datetime import UTC, datetime

from sam3ft_launch.backend import Observed
from sam3ft_launch.cli.cluster.place import ClusterPlace, placed
from sam3ft_launch.cli.live import duration, progress_rows
from sam3ft_launch.cli.locate import RunArgument, backend_of, handle_of, locate
from sam3ft_launch.cli.output import OutputFormat, OutputOption, emit, print_rows
from sam3ft_launch.cli.summary import places
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.local.record import RunRecord


@placed()
def status(
    run: RunArgument = None,
    *,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show where a run stands: state, step, ETA, scores, restarts, and where its files are.

    On a cluster without a name: one line for every run of the namespace.
    """
    if place is not None:
        from sam3ft_launch.cli.cluster.status import show  # noqa: PLC0415 - an extra's library

        show(place, run, output=output)
        return
    folder, record = locate(run)
    observed = backend_of(folder).observe(handle_of(folder, record))
    if output is OutputFormat.JSON:
        emit(
            name=record.name,
            uid=record.uid,
            attempt=record.attempt,
            processes=record.processes,
            phase=record.phase,
            started_unix_s=record.started_unix_s,
            ended_unix_s=record.ended_unix_s,
            ends=[end.model_dump() for end in record.ends],
            places=places(folder),
            **{field.name: getattr(observed, field.name) for field in dataclasses.fields(observed)},
        )
        return
    print_rows(_rows(folder, record, observed))


def _rows(folder: RunDir, record: RunRecord, observed: Observed) -> list[tuple[str, str]]:
    rows = [("run", f"{record.name} (attempt {record.attempt}, {record.processes} processes on {record.host})")]
    code = "" if observed.exit_code is None else f", code {observed.exit_code}"
    rows.append(("state", f"{observed.state}{code}"))
    if observed.message:
        rows.append(("message", observed.message))
    started = datetime.fromtimestamp(record.started_unix_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    rows.append(("started", f"{started}, {duration((record.ended_unix_s or time.time()) - record.started_unix_s)}"))
    if observed.progress:
        rows += progress_rows(observed.progress, restarts=observed.restarts, is_over=observed.state.is_terminal)
    rows += [("" if index else "restarts", f"{end.reason} ({end.code})") for index, end in enumerate(record.ends)]
    return rows + list(places(folder).items())
