"""`sam3ft cancel`: save, then end."""

import time
from typing import Annotated

import typer

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.backend import Observed
from sam3ft_launch.cli.cluster.place import ClusterPlace, placed
from sam3ft_launch.cli.locate import Found, RunArgument, locate
from sam3ft_launch.cli.output import OutputFormat, OutputOption, say
from sam3ft_launch.prepare import is_of_a_folder

_POLL_S = 0.2
_MARGIN_S = 30.0


@placed()
def cancel(
    run: RunArgument = None,
    *,
    grace: Annotated[float, typer.Option("--grace", min=0, max=86_400, help="Seconds for saving a checkpoint.")] = 120,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when the run has ended.")] = True,
    place: ClusterPlace | None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Ask a run to save a checkpoint and end. The same `sam3ft run` command resumes it.

    On a cluster its resource is deleted, once it has saved; checkpoints stay. `sam3ft suspend` keeps the resource.
    """
    if place is not None:
        from sam3ft_launch.cli.cluster import changes  # noqa: PLC0415 - an extra's library

        changes.cancel(place, run, grace_s=grace, wait=wait, output=output)
        return
    found = locate(run)
    require_no_resource(found)
    backend, handle = found.backend, found.handle
    backend.cancel(handle, grace_s=grace)
    observed = backend.observe(handle)
    give_up_at_s = time.monotonic() + (grace + _MARGIN_S if wait else 0.0)
    while not observed.state.is_terminal and time.monotonic() < give_up_at_s:
        time.sleep(_POLL_S)
        observed = backend.observe(handle)
    say(
        _sentence(found.name, observed),
        output=output,
        event="cancel",
        run=found.name,
        state=observed.state,
        code=observed.exit_code,
        message=observed.message,
    )


def require_no_resource(found: Found) -> None:
    """Make sure that no operator would begin the run again.

    Raises:
        InvalidConfig: it belongs to a resource of a cluster.
    """
    if not is_of_a_folder(found.handle.uid):
        raise InvalidConfig(
            f"the run {found.name!r} in {found.folder.root} belongs to a resource of a cluster, which would begin it "
            f"again; where you have kubectl: sam3ft suspend {found.name} -n NAMESPACE, or sam3ft cancel there. "
            f"Here, scancel ends {found.driver} at once, and the resource with it as failed"
        )


def _sentence(name: str, observed: Observed) -> str:
    if not observed.state.is_terminal:
        return f"{name} is asked to save and end; `sam3ft status` shows when it has"
    code = "" if observed.exit_code is None else f" with code {observed.exit_code}"
    saved = observed.progress.checkpoint_step if observed.progress else None
    checkpoint = "no checkpoint was saved" if saved is None else f"the newest checkpoint is step {saved}"
    return f"{name} has ended{code} ({observed.state}); {checkpoint}"
