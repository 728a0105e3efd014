"""Which job is an attempt's: the one that has claimed it in the run folder, before that the one that was submitted."""

from sam3ft_launch.backend import TransientError
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.record import SlurmRecord


def claimant(folder: RunDir, record: SlurmRecord) -> str:
    """Return the number of the job that has claimed the attempt, as its script does first; empty before that.

    Raises:
        TransientError: the folder cannot be read.
    """
    try:
        return folder.slurm_owner(record.job_name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise TransientError(f"{error.filename}: {error.strerror}") from error


def job_number(folder: RunDir, record: SlurmRecord) -> str:
    """Return the number of the attempt's job; empty while it is not known whether there is one.

    It is not always the recorded one: people hand in the script again by hand, after they have cancelled a job that
    waited.

    Raises:
        TransientError: the folder cannot be read.
    """
    return claimant(folder, record) or record.job_id
