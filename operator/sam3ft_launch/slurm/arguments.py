"""Arguments that two small programs of the batch script share, and what SLURM tells both."""

import argparse
import os
from pathlib import Path

from sam3ft_launch.folder.rundir import RunDir


def parser_of(module: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with `--run-dir` and `--attempt`.

    Args:
        module: how the program is called.
        description: first line of its help.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--run-dir", type=_folder, required=True, metavar="DIR")
    parser.add_argument("--attempt", type=int, required=True)
    return parser


def num_nodes() -> int:
    """Return how many nodes the job has."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def _folder(text: str) -> RunDir:
    return RunDir(Path(text))
