"""The launcher's files inside the work folder: logs, result files and the flag file."""

import os
from pathlib import Path

from pydantic import ValidationError

from sam3ft_api.files import write_atomically
from sam3ft_api.worker import Flag, WorkerResult

_MAX_RESULT_BYTES = 1 << 20
_TAIL_BYTES = 64 * 1024
_ROTATE_BYTES = 64 << 20


class WorkFolder:
    """Paths below one node's work folder, made when the object is made.

    `logs/rank-N.log` holds the output of rank N, appended over restarts; when it has passed 64 MiB at a start it
    becomes `rank-N.log.1`. `launcher/` holds what launcher and workers tell each other.
    """

    def __init__(self, root: Path) -> None:
        """Make the folders, private to this user.

        Raises:
            OSError: they cannot be made.
        """
        self.root = root
        self._logs = root / "logs"
        self._private = root / "launcher"
        for folder in (root, self._logs, self._private):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self._logs

    @property
    def flag_file(self) -> Path:
        """Where requests to the workers stand."""
        return self._private / "flag.json"

    def log_file(self, rank: int) -> Path:
        """Where the output of a rank goes."""
        return self._logs / f"rank-{rank}.log"

    def result_file(self, rank: int) -> Path:
        """Where a rank writes its last word."""
        return self._private / f"result-{rank}.json"

    def training_file(self, rank: int) -> Path:
        """Where a rank says that it has finished a step."""
        return self._private / f"training-{rank}"

    def prepare(self, rank: int) -> int:
        """Clear what an earlier worker of this rank left; return the size of the log, where the new output begins."""
        self.result_file(rank).unlink(missing_ok=True)
        self.training_file(rank).unlink(missing_ok=True)
        log = self.log_file(rank)
        size = log.stat().st_size if log.exists() else 0
        if size > _ROTATE_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
            return 0
        return size

    def raise_flag(self, flag: Flag) -> None:
        """Put a request in front of the workers."""
        write_atomically(self.flag_file, flag.model_dump_json())

    def lower_flag(self) -> None:
        """Withdraw the request, if there is one."""
        self.flag_file.unlink(missing_ok=True)

    def read_result(self, rank: int) -> WorkerResult | None:
        """Return the last word of a rank; None when it left none, or none that can be understood."""
        path = self.result_file(rank)
        try:
            if path.stat().st_size > _MAX_RESULT_BYTES:
                return None
            result = WorkerResult.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        return result if result.rank == rank and 0 <= result.code <= 255 else None

    def log_tail(self, rank: int, *, start: int) -> str:
        """Return the end of a rank's output, at most 64 KiB and nothing before the byte `start`."""
        try:
            with self.log_file(rank).open("rb") as log:
                size = os.fstat(log.fileno()).st_size
                log.seek(max(start, size - _TAIL_BYTES))
                return log.read(_TAIL_BYTES).decode("utf-8", errors="replace")
        except OSError:
            return ""
