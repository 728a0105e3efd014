"""What a site's SLURM needs to be told, from one small file of the user's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sam3ft_api.fields import DnsLabel, SlurmName
from sam3ft_api.problems import find_problems, invalid_config
from sam3ft_api.yaml import read_text, read_yaml

DEFAULT_FILE = "~/.config/sam3ft/slurm.yaml"
ENV_SETTINGS = "SAM3FT_SLURM_SETTINGS"
"""Path of another file than `DEFAULT_FILE`."""

Line = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""One line of a script, without control characters."""
Word = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x20\x7f'\"\\$`;&|<>()*?\[\]{}~!#]+$")]
"""A word that means nothing to a shell."""
Folder = Annotated[str, Field(max_length=256, pattern=r"^/[A-Za-z0-9_.+=@/-]*$")]
"""An absolute path that means nothing to a shell, nor to a list of mounts."""


class SlurmSettings(BaseModel):
    """A site as its user describes it; the defaults fit a site where the shared home holds a virtual environment.

    Attributes:
        site: name of the site; a run whose file names another one is refused.
        partition: where the run's file names none; None leaves it to SLURM.
        account: that is charged where the run's file names none; None leaves it to SLURM.
        gpus: how GPUs are asked for: `gpus-per-node` or `gres` (`--gres=gpu:N`), or `none` on a site without any.
        gpu_type: put before the number, as a100; None takes any.
        runtime: `none` runs Python as it is; `apptainer` and `pyxis` run it in the image.
        image: path or address of the trainer's image; needed with a runtime.
        mounts: folders that the containers see beside the run folder, by their absolute paths.
        python: of the trainer; None takes the interpreter that runs this program, or `python` in an image.
        setup: lines of shell that every job begins with, as `module load cuda`.
        options: further options of sbatch, each as it stands behind #SBATCH, as --qos=long.
        elastic: where `workers.minNodes` is below `workers.nodes`, every node is a job of its own: training begins and
            goes on with fewer, and a node that comes later joins. Otherwise one job has all nodes.
        poll_s: seconds between two questions to the scheduler.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    site: DnsLabel | None = None
    partition: SlurmName | None = None
    account: SlurmName | None = None
    gpus: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"
    gpu_type: SlurmName | None = None
    runtime: Literal["none", "apptainer", "pyxis"] = "none"
    image: Word | None = None
    mounts: tuple[Folder, ...] = ()
    python: Word | None = None
    setup: tuple[Line, ...] = ()
    options: tuple[Annotated[Line, Field(pattern=r"^--?[A-Za-z]")], ...] = ()
    elastic: bool = False
    poll_s: Annotated[float, Field(ge=0.2, le=600)] = 15.0

    @model_validator(mode="after")
    def _an_image_for_a_runtime(self) -> Self:
        if (self.runtime == "none") != (self.image is None):
            raise ValueError(
                f"runtime {self.runtime} with image {self.image}: apptainer and pyxis need an image, none takes none"
            )
        return self


def settings_file(environ: Mapping[str, str]) -> Path:
    """Return the path of the user's settings, which need not exist."""
    return Path(environ.get(ENV_SETTINGS) or DEFAULT_FILE).expanduser()


def read_settings(path: Path) -> SlurmSettings:
    """Return the settings in a file; the defaults when there is no file.

    Raises:
        InvalidConfig: it cannot be read, or says something that it must not; every problem is named.
    """
    if not path.exists():
        return SlurmSettings()
    document = read_yaml(read_text(path), name=str(path))
    try:
        return SlurmSettings.model_validate(document.data or {})
    except ValidationError as error:
        problems = find_problems(error, SlurmSettings)
        raise invalid_config(problems, source=str(path), place=document.place) from None
