"""What is said of the nodes that an elastic run does without."""

from pathlib import Path

import pytest

from sam3ft_api.status import SlurmStatus
from sam3ft_launch.backend import Observed, RunState
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.agent.report import seen
from sam3ft_launch.slurm.observation import without_nodes
from sam3ft_launch.slurm.record import NodeJob, SlurmRecord


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path / "run")
    folder.create()
    return folder


def record(*jobs: NodeJob) -> SlurmRecord:
    fields = {"name": "blood", "uid": "0123", "attempt": 2, "job_name": "sft", "nodes": 3, "processes": 1, "places": 3}
    return SlurmRecord.model_validate({**fields, "submitted_unix_s": 0, "node_jobs": jobs})


def job(slot: int, *, refused: str = "") -> NodeJob:
    return NodeJob(slot=slot, job_name=f"sft-{slot}", job_id=f"1{slot}", submitted_unix_s=0, refused=refused)


def test_nothing_is_said_of_nodes_that_are_there_or_wait(folder: RunDir):
    folder.empty_place(1, 2).touch()  # of an attempt before

    assert "" == without_nodes(folder, record(job(1), job(2)))


def test_each_node_that_is_refused_or_has_failed_is_told_of(folder: RunDir):
    folder.empty_place(2, 2).touch()

    said = without_nodes(folder, record(job(1, refused="SLURM refuses the job: QOS"), job(2)))

    refused, failed = said.split("; node 2")
    assert "node 1 is missing: SLURM refuses the job: QOS" == refused
    assert failed.endswith(f"see {folder.work}/node-12.log")


def test_the_agent_tells_of_missing_nodes_of_a_run_that_trains_alone():
    told = SlurmStatus(site="alps", attempt=1)
    trains, waits = (Observed(state, message="words") for state in (RunState.RUNNING, RunState.PENDING))

    assert "words" == seen(told, trains, None, nodes=2).missing
    assert ("", "words") == ((found := seen(told, waits, None, nodes=2)).missing, found.message)
