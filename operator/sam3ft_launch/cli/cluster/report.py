"""`sam3ft report` on a cluster: from what the run keeps beside its checkpoints."""

from pathlib import Path

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.cli.cluster.place import ClusterPlace
from sam3ft_launch.cli.cluster.site_log import address_of, is_folder, profile_of
from sam3ft_launch.cli.output import OutputFormat
from sam3ft_launch.cli.trainer import show_trainer


def make(place: ClusterPlace, run: str | None, *, to: Path | None, output: OutputFormat) -> None:
    """Write the report of a run and say where it is.

    Args:
        place: of the run.
        run: name or file.
        to: file to write; None for one of the run's name in the present folder.
        output: for whom to print.

    Raises:
        InvalidConfig, TransientError: as `ClusterRuns`; also when the checkpoints lie in a folder of a site.
        TrainerHasSpoken: the store keeps nothing or cannot be read; the trainer has said why.
    """
    _, found = place.find(run)
    uri = address_of(found)
    if is_folder(uri):
        raise InvalidConfig(
            f"{found.name} keeps its checkpoints in {uri or 'no place'}, a folder of its site; make the report there: "
            "sam3ft report with the run's folder"
        )
    page = (to or Path(f"{found.name}.html")).absolute()
    show_trainer(["report", "--kept-at", uri, "--profile", profile_of(found), "--to", str(page), "-o", output.value])
