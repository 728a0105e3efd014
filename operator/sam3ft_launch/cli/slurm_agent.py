"""`sam3ft slurm-agent`: the program on a login node that runs what a cluster's resources ask for."""

import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sam3ft_api.errors import InvalidConfig, StorageDenied, StorageUnavailable
from sam3ft_api.fields import DNS_LABEL
from sam3ft_launch.cli.cluster.place import ContextOption, KubeconfigOption
from sam3ft_launch.cli.output import OutputFormat, OutputOption, emit, say
from sam3ft_launch.cli.trainer import TRAINER_COMMAND, require_trainer
from sam3ft_launch.slurm.settings import SlurmSettings, read_settings, settings_file

if TYPE_CHECKING:
    from sam3ft_launch.slurm.agent.agent import TickResult

app = typer.Typer(help="Runs of a cluster on this SLURM site.", no_args_is_help=True, rich_markup_mode=None)

_RUNS = "~/sam3ft-runs"
_EVERY_S = 15.0

SiteOption = Annotated[
    str | None,
    typer.Option(
        "--site",
        metavar="NAME",
        help="As `slurm.site` of the runs says. Default: that of the site's settings.",
        show_default=False,
    ),
]


@app.callback()
def group() -> None:
    """Runs of a cluster on this SLURM site: an agent that needs outbound HTTPS and no more."""


@app.command()
def enroll(
    *,
    site: SiteOption = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", metavar="NAME", help="Of the runs.")] = "default",
    context: ContextOption = None,
    kubeconfig: KubeconfigOption = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Where the agent's kubeconfig is written.", show_default=False),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Make the agent's account and its rights with your own kubeconfig, and write its first token into a file.

    Needs the right to make ServiceAccounts, Roles and RoleBindings in the namespace; again when a token has run out.
    """
    from sam3ft_launch.kubernetes.api import ApiProblem  # noqa: PLC0415 - an extra that other verbs do not need
    from sam3ft_launch.kubernetes.connect import connect  # noqa: PLC0415
    from sam3ft_launch.slurm.agent.credentials import TOKEN_S  # noqa: PLC0415
    from sam3ft_launch.slurm.agent.enrolment import enrol, first_kubeconfig  # noqa: PLC0415
    from sam3ft_launch.slurm.agent.files import default_file, write_kubeconfig  # noqa: PLC0415

    name = _site(site, read_settings(settings_file(os.environ)))
    api = connect(kubeconfig=kubeconfig, context=context, namespace=namespace).api
    path = (to or default_file(name, home=Path.home())).absolute()
    try:
        enrol(api, name, namespace)
        document = first_kubeconfig(api, name, namespace, seconds=TOKEN_S)
        write_kubeconfig(path, document)
    except ApiProblem as problem:
        raise _of_cluster(problem) from None
    except OSError as error:
        raise StorageDenied(
            f"{error.filename or path} cannot be read or written: {error.strerror}; name another file by --to"
        ) from None
    say(
        f"site {name} is enrolled in namespace {namespace}; on its login node: sam3ft slurm-agent run --site {name} "
        f"--kubeconfig {path}",
        output=output,
        event="enrolled",
        site=name,
        namespace=namespace,
        kubeconfig=path,
    )


@app.command()
def run(
    *,
    site: SiteOption = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            "--kubeconfig",
            metavar="FILE",
            help="That `enroll` has written. Default: ~/.config/sam3ft/slurm-agent-SITE.yaml.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        Path, typer.Option("--runs", metavar="DIR", help="Folder of the run folders, shared by all nodes.")
    ] = Path(_RUNS),
    every: Annotated[float, typer.Option("--every", metavar="SECONDS", min=1.0, max=600.0, help="Between looks.")] = (
        _EVERY_S
    ),
    ticks: Annotated[
        int | None,
        typer.Option("--ticks", metavar="N", min=1, help="Look so many times, then end.", show_default=False),
    ] = None,
    renew_after: Annotated[
        float,
        typer.Option("--renew-after", min=0.0, max=0.9, help="Share of a token's time after which it is renewed."),
    ] = 0.2,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Submit, watch and end jobs as the resources of this site ask for, until stopped; jobs go on without it."""
    from sam3ft_launch.slurm.agent.files import default_file  # noqa: PLC0415 - an extra that other verbs do not need
    from sam3ft_launch.slurm.agent.program import AgentOptions, run_agent  # noqa: PLC0415

    settings = read_settings(settings_file(os.environ))
    name = _site(site, settings)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    require_trainer()

    def ticked(result: "TickResult", took_s: float) -> None:
        if output is OutputFormat.JSON:
            emit(event="tick", seconds=round(took_s, 3), **result.figures())

    options = AgentOptions(
        site=name,
        settings=settings,
        kubeconfig=(kubeconfig or default_file(name, home=Path.home())).absolute(),
        root=runs.expanduser().absolute(),
        every_s=every,
        check_command=TRAINER_COMMAND,
        renew_after=renew_after,
    )
    run_agent(options, ticks=ticks, ticked=ticked)


def _site(given: str | None, settings: SlurmSettings) -> str:
    """Return the name of the site.

    Raises:
        InvalidConfig: none is known, or it is no name.
    """
    site = given or settings.site
    if site is None:
        raise InvalidConfig("which site is this? name it by --site, or by `site:` in the site's settings")
    if not re.fullmatch(DNS_LABEL, site) or len(site) > 40:
        raise InvalidConfig(f"--site {site!r}: expected lower-case letters, digits and dashes, at most 40")
    return site


def _of_cluster(problem: Exception) -> StorageUnavailable | InvalidConfig:
    code = getattr(problem, "code", 0)
    if code in (401, 403):
        return InvalidConfig(f"the cluster refuses: {problem}; enrol with an account that may make Roles there")
    if code == 404:
        return InvalidConfig(f"the cluster refuses: {problem}; is the namespace there?")
    return StorageUnavailable(f"the cluster does not answer: {problem}")
