"""From a resource to the plan of its open attempt on this site; pure."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.convert import to_training_config
from sam3ft_api.crd import to_yaml
from sam3ft_api.errors import InvalidConfig
from sam3ft_api.plan import JobPlan
from sam3ft_api.problems import find_problems, invalid_config
from sam3ft_api.spec import API_VERSION, KIND, SAM3FineTune
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.prepare import Prepared, with_absolute_addresses
from sam3ft_launch.slurm.agent.wanted import SiteRun
from sam3ft_launch.slurm.plan import plan_on_slurm
from sam3ft_launch.slurm.settings import SlurmSettings


def plan_of(run: SiteRun, *, folder: RunDir, settings: SlurmSettings, environ: Mapping[str, str]) -> JobPlan:
    """Return the plan of the open attempt: the same document as on a cluster, with the resource as the owner.

    Args:
        run: as it was read; an attempt is open.
        folder: of the run.
        settings: of the site.
        environ: of the agent, in which a place for the cache may stand.

    Raises:
        InvalidConfig: the spec cannot be read, or cannot be run on this site.
    """
    if run.spec is None:
        raise InvalidConfig("the spec cannot be read by this agent; bring agent and operator to the same version")
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": run.name, "namespace": run.namespace},
        "spec": dict(run.content),
    }
    try:
        finetune = SAM3FineTune.model_validate(document)
    except ValidationError as error:
        raise invalid_config(find_problems(error, SAM3FineTune), source=run.name) from None
    config = to_training_config(finetune, backend="slurm", uid=run.uid)
    # Folders are absolute already, but for those inside of a data set.
    prepared = Prepared(run.name, to_yaml(document), with_absolute_addresses(config, base=Path("/")), finetune)
    return plan_on_slurm(
        prepared,
        folder=folder,
        uid=run.uid,
        attempt=run.attempt,
        nproc=None,
        settings=settings,
        environ=environ,
    )
