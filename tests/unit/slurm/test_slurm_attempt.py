"""What is told of an attempt, from its folder and a scheduler that answers from a script; real sites answer in
tests/integration/slurm_agent.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api import names
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.plan import JobPlan
from sam3ft_api.status import SlurmStatus
from sam3ft_launch.backend import TransientError
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.agent import attempt, checks
from sam3ft_launch.slurm.agent.attempt import BELIEVED_AFTER_S, Attempts
from sam3ft_launch.slurm.agent.checks import PAUSES_S, Checks
from sam3ft_launch.slurm.agent.planning import plan_of
from sam3ft_launch.slurm.agent.scheduler import TickClient
from sam3ft_launch.slurm.agent.wanted import SiteRun, site_run
from sam3ft_launch.slurm.record import JobReport, SlurmRecord, write
from sam3ft_launch.slurm.settings import SlurmSettings

UID = "0123456789abcdef0123"
NAME = names.slurm_job_name(UID, 1)
CHECK = """
import json, sys
code = int(open(sys.argv[1]).read())
assert "--for-others" in sys.argv
word = sys.argv[sys.argv.index("--termination-log") + 1]
with open(sys.argv[1] + ".count", "a") as stream:
    stream.write("x")
if code >= 0:
    open(word, "w").write(json.dumps({"code": code, "reason": "R", "message": f"said {code}"}))
sys.exit(max(code, 0))
"""


class Site(TickClient):
    """A scheduler with a list of jobs: number, name, state and reason each."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, str, str, str]] = []
        self.is_away = False
        self.cancelled: list[str] = []
        self.submitted = 0

    def _run(self, command: Sequence[str]) -> Any:
        if self.is_away:
            raise TransientError("away")
        if command[0] == "sbatch":
            self.submitted += 1
            self.rows.append(("7", NAME, "PENDING", "Priority"))
            return 0, "7\n", ""
        if command[0] == "scancel":
            self.cancelled.append(command[-1])
            return 0, "", ""
        if command[0] == "squeue":
            rows = (
                "".join(f"{field:<256}" for field in (*row, "0", "n1" if row[2] == "RUNNING" else ""))
                for row in self.rows
            )
            return 0, "".join(f"{row}\n" for row in rows), ""
        return 1, "", "Slurm accounting storage is disabled"


class Bench:
    """One run in a folder, over many looks."""

    def __init__(self, tmp_path: Path) -> None:
        self.site, self.now_s = Site(), 1000.0
        self.code = tmp_path / "code"
        self.code.write_text("0")
        program = tmp_path / "check.py"
        program.write_text(CHECK)
        of_data = Checks((sys.executable, str(program), str(self.code)), clock=lambda: self.now_s)
        self.attempts = Attempts(self.site, SlurmSettings(), of_data, {}, clock=lambda: self.now_s)
        self.folder = RunDir(tmp_path / "runs/vision/blood-01234567")
        self.folder.create()
        self.intents: list[SlurmStatus] = []

    def resource(self, **spec: Any) -> SiteRun:
        body = {
            "metadata": {"namespace": "vision", "name": "blood", "uid": UID},
            "spec": {
                "backend": "slurm", "slurm": {"site": "alps"}, "model": {"uri": "preset:tiny"},
                "data": {"uri": "s3://d/x"}, "checkpoint": {"uri": "s3://r/x"}, **spec,
            },
            "status": {"attempts": [{"n": 1}]},
        }  # fmt: skip
        found = site_run(body, site="alps")
        assert found is not None
        return found

    def look(self, **spec: Any) -> SlurmStatus:
        """Look at the scheduler, then have the run run."""
        self.site.look({"7": 0.0})
        told = SlurmStatus(site="alps", attempt=1)
        return self.attempts.run(self.resource(**spec), self.folder, told, self._intend)

    def stop(self, *, is_now: bool = False) -> SlurmStatus:
        """Look at the scheduler, then have the run end."""
        self.site.look({"7": 0.0})
        told = SlurmStatus(site="alps", attempt=1)
        return self.attempts.stop(self.resource(suspend=True), self.folder, told, is_now=is_now)

    def until(self, holds: Any) -> SlurmStatus:
        """Look until something is told."""
        give_up_s = time.monotonic() + 30
        while not holds(told := self.look()):
            assert time.monotonic() < give_up_s, told
            time.sleep(0.02)
        return told

    def has_record(self, *, job_id: str = "7", age_s: float = 600.0) -> None:
        """Have the attempt been submitted a while ago."""
        record = SlurmRecord(
            name="blood", uid=UID, attempt=1, job_name=NAME, job_id=job_id, nodes=1, processes=1,
            submitted_unix_s=time.time() - age_s,
        )  # fmt: skip
        write(self.folder.slurm, record)
        self.folder.slurm_script(1).write_text(f"#SBATCH --job-name={NAME}\n")

    def num_checks(self) -> int:
        counted = Path(f"{self.code}.count")
        return len(counted.read_text()) if counted.exists() else 0

    def _intend(self, told: SlurmStatus) -> bool:
        self.intents.append(told)
        return True


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_run_is_checked_intended_and_submitted(bench: Bench):
    assert bench.look().checking
    told = bench.until(lambda told: told.job_id)
    assert ("7", "PENDING", NAME, 1) == (told.job_id, told.state, told.intent, bench.site.submitted)
    assert [NAME] == [intent.intent for intent in bench.intents]
    assert "Priority" in bench.look().message


def test_a_check_without_a_verdict_is_made_again_after_pauses_and_at_last_believed(bench: Bench):
    bench.code.write_text(str(int(ExitCode.STORAGE_UNAVAILABLE)))
    for number, pause_s in enumerate((*PAUSES_S, 0.0), start=1):
        bench.until(lambda _, number=number: bench.num_checks() == number and not bench.attempts.checks.count)
        assert number == bench.num_checks()
        if number <= len(PAUSES_S):
            assert bench.look().exit_code is None
        bench.now_s += pause_s
    assert len(PAUSES_S) + 1 == bench.num_checks()


def test_a_check_that_is_mended_meanwhile_passes(bench: Bench):
    bench.code.write_text("-1")
    bench.until(lambda _: bench.num_checks() == 1 and not bench.attempts.checks.count)
    bench.code.write_text("0")
    bench.now_s += PAUSES_S[0]
    assert "7" == bench.until(lambda told: told.job_id).job_id


def test_a_run_that_waits_for_others_checks_is_planned_once_and_again_when_it_wants_something_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    planned: list[SiteRun] = []

    def plan(run: SiteRun, **more: Any) -> JobPlan:
        planned.append(run)
        return plan_of(run, **more)

    monkeypatch.setattr(attempt, "plan_of", plan)
    monkeypatch.setattr(checks, "AT_ONCE", 0)
    for _ in range(3):
        told = bench.look()
        assert (True, "The data set waits for its check.", 0) == (told.checking, told.message, bench.num_checks())
    assert 1 == len(planned)

    assert "timeLimit" in bench.look(slurm={"site": "alps", "timeLimit": "1s"}).message  # refused, although it waits
    assert 2 == len(planned)

    monkeypatch.setattr(checks, "AT_ONCE", 1)
    assert "7" == bench.until(lambda told: told.job_id).job_id


def test_a_run_whose_check_is_to_be_made_again_later_is_not_planned_until_then(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    bench.code.write_text(str(int(ExitCode.STORAGE_UNAVAILABLE)))
    bench.until(lambda _: bench.num_checks() == 1 and not bench.attempts.checks.count)
    bench.look()
    monkeypatch.setattr(attempt, "plan_of", lambda *_, **__: pytest.fail("it was planned"))
    assert bench.look().checking
    monkeypatch.undo()
    bench.now_s += PAUSES_S[0]
    bench.until(lambda _: bench.num_checks() == 2)


def test_checks_that_have_ended_take_no_place_although_nobody_has_asked_for_their_verdict(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checks, "AT_ONCE", 1)
    plan = plan_of(bench.resource(), folder=bench.folder, settings=SlurmSettings(), environ={})
    other = RunDir(tmp_path / "runs/vision/other-01234567")
    other.create()
    bench.attempts.checks.of(plan.model_copy(update={"uid": "other"}), other, turn=0, asked=None)
    assert 1 == bench.attempts.checks.count
    assert "7" == bench.until(lambda told: told.job_id).job_id
    bench.attempts.checks.end("other")


def test_a_run_that_ended_while_it_waited_is_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "AT_ONCE", 0)
    bench.look()
    run = bench.resource()
    assert bench.attempts.checks.must_wait(UID, (run.attempt, run.content))
    bench.stop()
    assert not bench.attempts.checks.must_wait(UID, (run.attempt, run.content))


def test_a_job_that_is_nowhere_is_lost_after_a_while(bench: Bench):
    bench.has_record()
    assert (None, "UNKNOWN") == (bench.look().exit_code, bench.look().state)
    bench.now_s += BELIEVED_AFTER_S
    told = bench.look()
    assert (int(ExitCode.TERMINATED), "JobLost") == (told.exit_code, told.ending)


def test_a_number_that_is_anothers_by_now_is_not_the_runs(bench: Bench):
    bench.has_record()
    bench.site.rows = [("7", "somebody-elses", "RUNNING", "")]
    bench.look()
    bench.now_s += BELIEVED_AFTER_S
    assert "JobLost" == bench.look().ending
    bench.stop(is_now=True)
    assert [] == bench.site.cancelled


def test_an_end_that_only_slurm_says_is_believed_late_and_that_of_the_job_at_once(bench: Bench):
    bench.has_record()
    bench.site.rows = [("7", NAME, "NODE_FAIL", "")]
    assert bench.look().exit_code is None
    bench.site.rows = [("7", NAME, "PENDING", "BeginTime")]
    bench.now_s += BELIEVED_AFTER_S
    assert (None, "PENDING") == (bench.look().exit_code, bench.look().state)
    bench.site.rows = [("7", NAME, "COMPLETING", "")]
    write(bench.folder.slurm_job, JobReport(attempt=1, job_id="7", code=0, reason="Succeeded"))
    assert 0 == bench.look().exit_code


def test_a_scheduler_that_is_away_ends_nothing(bench: Bench):
    bench.has_record()
    bench.site.is_away = True
    with pytest.raises(TransientError):
        bench.look()
    with pytest.raises(TransientError):
        bench.stop()


def test_a_submission_that_nobody_knows_of_goes_on_whatever_has_changed_since(bench: Bench):
    bench.has_record(job_id="")
    told = bench.look(slurm={"site": "alps", "timeLimit": "1s"})  # which would be refused
    assert ("7", 1, 0) == (told.job_id, bench.site.submitted, bench.num_checks())


def test_a_job_that_waits_is_cancelled_until_it_is_gone(bench: Bench):
    bench.has_record()
    bench.site.rows = [("7", NAME, "PENDING", "Priority")]
    assert bench.stop().exit_code is None
    assert bench.stop().exit_code is None
    assert ["7", "7"] == bench.site.cancelled
    bench.site.rows = [("7", NAME, "CANCELLED", "")]
    assert (int(ExitCode.INTERRUPTED), "Interrupted") == (bench.stop().exit_code, bench.stop().ending)


def test_a_job_that_trains_is_asked_once_and_has_time_to_save(bench: Bench):
    bench.has_record()
    bench.site.rows = [("7", NAME, "RUNNING", "")]
    bench.stop()
    bench.stop()
    assert [] == bench.site.cancelled
    assert 120.0 == json.loads(bench.folder.stop_request.read_text())["grace_s"]


def test_a_run_that_was_never_submitted_is_over_at_once(bench: Bench):
    told = bench.stop()
    assert (int(ExitCode.INTERRUPTED), 0) == (told.exit_code, bench.site.submitted)


def test_a_job_without_its_folder_is_ended_before_anything_is_told_to_be_over(bench: Bench):
    bench.site.rows = [("9", NAME, "RUNNING", "")]
    told = bench.stop()
    assert (None, "9", ["9"]) == (told.exit_code, told.job_id, bench.site.cancelled)
    bench.site.rows = []
    assert int(ExitCode.INTERRUPTED) == bench.stop().exit_code


def test_a_deletion_cancels_before_it_reads_a_file(bench: Bench):
    bench.site.rows = [("9", NAME, "RUNNING", "")]
    bench.folder.slurm.write_text("{")
    with pytest.raises(Exception, match="no record of this version"):
        bench.stop(is_now=True)
    assert ["9"] == bench.site.cancelled
