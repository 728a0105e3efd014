"""Whose runs the command line ends on a login node."""

from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.backend import Handle
from sam3ft_launch.cli.cancel import require_no_resource
from sam3ft_launch.cli.locate import Found
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.prepare import new_uid
from sam3ft_launch.slurm.backend import SlurmBackend


def found(folder: Path, uid: str) -> Found:
    handle = Handle("slurm", uid, 1, str(folder))
    return Found(RunDir(folder), SlurmBackend(folder.parent), handle, "blood", 4, "job 17", 0.0)


def test_a_run_of_a_clusters_resource_is_not_ended_behind_its_operators_back(tmp_path: Path):
    with pytest.raises(InvalidConfig, match=r"'blood' .* belongs to a resource .* sam3ft suspend blood .* ends job 17"):
        require_no_resource(found(tmp_path, "7f2c0f0e-6f5e-4e7c-9a53-0d3c6c1d2b10"))


def test_a_run_that_was_begun_here_is(tmp_path: Path):
    require_no_resource(found(tmp_path, new_uid()))
