"""The jobs of single nodes of an elastic run: one a place, replaced when gone, none left behind."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_launch.backend import TransientError
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.node_jobs import GONE_AFTER_S, REFUSED_PAUSE_S, NodeJobs
from sam3ft_launch.slurm.record import SlurmRecord, read_record
from sam3ft_launch.slurm.states import JobView

UID = "0123456789abcdef"
FIRST = f"sft-{UID}-1-0-0"


class Scheduler(SlurmClient):
    """Jobs in memory; the real one is asked in the integration tests."""

    def __init__(self) -> None:
        super().__init__(environ={})
        self.found: dict[str, JobView] = {"10": JobView("10", FIRST, "RUNNING", "", 0, "n1")}
        self.submitted: list[tuple[str, tuple[str, ...], str]] = []
        self.cancelled: list[str] = []
        self.problem: Exception | None = None
        self.dies_after = False

    def submit(self, script: str, *arguments: str, job_name: str = "", after: str = "") -> str:  # noqa: ARG002
        if self.problem is not None:
            raise self.problem
        number = str(10 + len(self.found))
        self.found[number] = JobView(number, job_name, "PENDING", "", 0, "")
        self.submitted.append((job_name.removeprefix(f"sft-{UID}-"), arguments, after))
        if self.dies_after:
            raise TransientError("no answer")
        return number

    def named(self, name: str) -> list[JobView]:
        return [job for job in self.found.values() if job.name == name]

    def jobs(self, job_ids: Sequence[str]) -> dict[str, JobView]:
        return {number: self.found[number] for number in job_ids if number in self.found}

    def living_of(self, uid: str) -> list[JobView]:  # noqa: ARG002
        return [job for job in self.found.values() if not job.state.is_over]

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def becomes(self, number: str, word: str, nodes: str = "") -> None:
        self.found[number] = JobView(number, self.found[number].name, word, "", 0, nodes)


class Bench:
    def __init__(self, folder: Path, *, places: int = 3) -> None:
        self.scheduler, self.folder, self.now_s = Scheduler(), RunDir(folder), 1000.0
        self.folder.create()
        self.jobs = NodeJobs(self.folder, self.scheduler, lambda: self.now_s)
        self.record = SlurmRecord(
            name="blood",
            uid=UID,
            attempt=1,
            job_name=FIRST,
            job_id="10",
            nodes=places,
            processes=1,
            submitted_unix_s=0,
            places=places,
        )

    def fill(self, *, later_s: float = 0.0) -> None:
        self.now_s += later_s
        try:
            self.jobs.fill(self.record)
        finally:
            self.record = read_record(self.folder.slurm) or self.record

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.scheduler.submitted]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run")


def test_each_place_has_one_job_that_begins_after_the_first_ones(bench: Bench):
    bench.fill()
    bench.fill(later_s=1000)

    assert [("1-1-0", ("1",), "10"), ("1-2-0", ("2",), "10")] == bench.scheduler.submitted
    assert ["11", "12"] == [job.job_id for job in bench.record.node_jobs]


def test_a_job_whose_number_was_never_heard_is_found_by_its_name(bench: Bench):
    bench.scheduler.dies_after = True
    with pytest.raises(TransientError):
        bench.fill()
    bench.scheduler.dies_after = False
    bench.fill()

    assert ["1-1-0", "1-2-0"] == bench.names
    assert ["11", "12"] == [job.job_id for job in bench.record.node_jobs]


@pytest.mark.parametrize("word", ["CANCELLED", "COMPLETED", "NODE_FAIL", "unknown"])
def test_a_place_whose_job_is_gone_has_another_after_a_while(bench: Bench, word: str):
    bench.fill()
    if word == "unknown":
        del bench.scheduler.found["11"]
    else:
        bench.scheduler.becomes("11", word)
    bench.fill(later_s=3600)
    bench.fill(later_s=GONE_AFTER_S - 1)
    assert ["1-1-0", "1-2-0"] == bench.names
    bench.fill(later_s=2)

    assert ["1-1-0", "1-2-0", "1-1-1"] == bench.names
    assert ["11"] == bench.scheduler.cancelled  # should it come back


def test_a_place_that_has_failed_on_node_after_node_stays_empty(bench: Bench):
    bench.fill()
    bench.folder.empty_place(1, 2).touch()
    for number in ("11", "12"):
        bench.scheduler.becomes(number, "FAILED")
    bench.fill()
    bench.fill(later_s=GONE_AFTER_S + 1)

    assert ["1-1-0", "1-2-0", "1-1-1"] == bench.names


def test_a_job_that_is_over_and_comes_back_is_not_replaced(bench: Bench):
    bench.fill()
    bench.scheduler.becomes("11", "PREEMPTED")
    bench.fill(later_s=100)
    bench.scheduler.becomes("11", "PENDING")
    bench.fill(later_s=GONE_AFTER_S + 1)
    bench.scheduler.becomes("11", "NODE_FAIL")
    bench.fill(later_s=100)
    bench.fill(later_s=GONE_AFTER_S - 1)

    assert ["1-1-0", "1-2-0"] == bench.names


def test_a_place_that_is_refused_holds_up_no_other_and_is_tried_again_later(bench: Bench):
    bench.scheduler.problem = InvalidConfig("no quota")
    bench.fill()
    assert ["no quota", "no quota"] == [job.refused for job in bench.record.node_jobs]
    bench.scheduler.problem = None
    bench.fill(later_s=REFUSED_PAUSE_S - 1)
    assert [] == bench.names
    bench.fill(later_s=2)

    assert ["1-1-0", "1-2-0"] == bench.names
    assert ["", ""] == [job.refused for job in bench.record.node_jobs]


def test_jobs_that_wait_are_ended_first_and_those_that_no_record_names_as_well(bench: Bench):
    bench.fill()
    bench.scheduler.becomes("11", "RUNNING", "n2")
    bench.scheduler.found["40"] = JobView("40", f"sft-{UID}-1-1-7", "RUNNING", "", 0, "n3")

    bench.jobs.cancel(bench.record, running=False)
    assert ["12"] == bench.scheduler.cancelled
    bench.jobs.cancel(bench.record, running=True)
    assert ["12", "11", "12", "40"] == bench.scheduler.cancelled
