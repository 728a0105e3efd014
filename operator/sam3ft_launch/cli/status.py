"""`sam3ft status`: where a run stands."""

import dataclasses
import time
from datetime import UTC, datetime

from sam3ft_launch.backend import Observed
from sam3ft_launch.cli.cluster.place import ClusterPlace, placed
from sam3ft_launch.cli.live import duration, progress_rows
from sam3ft_launch.cli.locate import Found, RunArgument, locate
from sam3ft_launch.cli.output import OutputFormat, OutputOption, emit, print_rows
from sam3ft_launch.cli.summary import places


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
    found = locate(run)
    observed = found.backend.observe(found.handle)
    if output is OutputFormat.JSON:
        emit(
            name=found.name,
            uid=found.handle.uid,
            attempt=found.handle.attempt,
            processes=found.processes,
            driver=found.driver,
            started_unix_s=found.started_unix_s,
            ended_unix_s=found.ended_unix_s(),
            ends=[end.model_dump() for end in found.ends()],
            places=places(found.folder),
            **{field.name: getattr(observed, field.name) for field in dataclasses.fields(observed)},
        )
        return
    print_rows(_rows(found, observed))


def _rows(found: Found, observed: Observed) -> list[tuple[str, str]]:
    processes = "1 process" if found.processes == 1 else f"{found.processes} processes"
    rows = [("run", f"{found.name} (attempt {found.handle.attempt}, {processes}, {found.driver})")]
    code = "" if observed.exit_code is None else f", code {observed.exit_code}"
    rows.append(("state", f"{observed.state}{code}"))
    if observed.message:
        rows.append(("message", observed.message))
    started = datetime.fromtimestamp(found.started_unix_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    rows.append(("started", f"{started}, {duration((found.ended_unix_s() or time.time()) - found.started_unix_s)}"))
    if observed.progress:
        rows += progress_rows(observed.progress, restarts=observed.restarts, is_over=observed.state.is_terminal)
    rows += [("" if index else "restarts", f"{end.reason} ({end.code})") for index, end in enumerate(found.ends())]
    return rows + list(places(found.folder).items())
