"""From a user's file to the plan of one attempt on a SLURM site: pure, nothing is started or written."""

from collections.abc import Mapping

from pydantic import ValidationError

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.fields import seconds
from sam3ft_api.plan import JobPlan, Placement, SlurmPlacement
from sam3ft_api.problems import find_problems, invalid_config
from sam3ft_api.spec_workers import SlurmSpec, WorkersSpec
from sam3ft_api.training import IdentityConfig
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.prepare import Prepared, cache_of_this_machine, limits_of, with_default_uris
from sam3ft_launch.slurm.settings import SlurmSettings


def plan_on_slurm(
    prepared: Prepared,
    *,
    folder: RunDir,
    uid: str,
    attempt: int,
    nproc: int | None,
    settings: SlurmSettings,
    environ: Mapping[str, str],
) -> JobPlan:
    """Return the plan of one attempt on this site.

    One job has all `workers.nodes`: it begins when SLURM has them together, so that none waits idle for others. On a
    site that is elastic, and with `workers.minNodes` below that, each node is a job of its own.

    Args:
        prepared: what was validated.
        folder: where the run lives, shared by all nodes; checkpoints and model go there unless the file says otherwise.
        uid: identity of the folder's run, recorded as the owner of the checkpoint prefix.
        attempt: its number.
        nproc: worker processes of each node; None takes one per GPU of `workers.gpusPerNode`.
        settings: of the site.
        environ: of this process, in which a place for the cache may stand.

    Raises:
        InvalidConfig: there is no file, it is for another site, or more processes than images in the global batch.
    """
    if prepared.finetune is None:
        raise InvalidConfig("--backend slurm needs a file of kind SAM3FineTune; overrides alone say nothing of nodes")
    spec = prepared.finetune.spec
    workers, slurm = spec.workers, spec.slurm
    _require_fit(workers, slurm, settings, nproc)
    config = with_default_uris(prepared.config, folder)
    config = config.model_copy(update={"identity": IdentityConfig(name=prepared.name, uid=uid)})
    try:
        return JobPlan(
            name=prepared.name,
            uid=uid,
            attempt=attempt,
            backend="slurm",
            config=config,
            source=prepared.source,
            nodes=workers.nodes,
            min_nodes=workers.min_nodes if settings.elastic else workers.nodes,
            max_nodes=workers.nodes,
            processes_per_node=nproc or max(1, workers.gpus_per_node),
            gpus_per_node=workers.gpus_per_node,
            env=cache_of_this_machine(config, environ),
            placement=_resources(workers),
            slurm=_place(slurm, settings),
            **limits_of(spec),
        )
    except ValidationError as error:
        raise invalid_config(find_problems(error, JobPlan), source=f"{prepared.name}: plan") from None


def _require_fit(workers: WorkersSpec, slurm: SlurmSpec | None, settings: SlurmSettings, nproc: int | None) -> None:
    if slurm is not None and settings.site is not None and settings.site != slurm.site:
        raise InvalidConfig(
            f"slurm.site is {slurm.site}, and this site's settings say {settings.site}; run it there, or correct one"
        )
    if nproc is not None and workers.gpus_per_node and nproc > workers.gpus_per_node:
        raise InvalidConfig(
            f"--nproc {nproc}, and workers.gpusPerNode is {workers.gpus_per_node}: each process needs a GPU of its own"
        )


def _resources(workers: WorkersSpec) -> Placement:
    wanted = {"cpu": workers.resources.cpu, "memory": workers.resources.memory}
    return Placement(resources={name: amount for name, amount in wanted.items() if amount is not None})


def _place(slurm: SlurmSpec | None, settings: SlurmSettings) -> SlurmPlacement:
    if slurm is None:
        return SlurmPlacement(site=settings.site or "here")
    return SlurmPlacement(
        site=slurm.site,
        partition=slurm.partition or "",
        account=slurm.account or "",
        time_limit_s=seconds(slurm.time_limit) if slurm.time_limit else None,
    )
