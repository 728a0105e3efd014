"""The agent's pure parts: what a resource asks for, what is told, and when."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sam3ft_api.errors import Fenced, InvalidConfig, StorageDenied
from sam3ft_api.plan import JobPlan
from sam3ft_api.spec import SAM3FineTune
from sam3ft_api.status import SlurmStatus, moment
from sam3ft_api.worker import Progress
from sam3ft_api.yaml import read_yaml
from sam3ft_launch.backend import Observed, RunState, TransientError
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.kubernetes.api import Api, ApiProblem, ApiSettings
from sam3ft_launch.slurm.agent import report
from sam3ft_launch.slurm.agent.cluster import SiteCluster, facts_of, token_of
from sam3ft_launch.slurm.agent.credentials import Credentials
from sam3ft_launch.slurm.agent.files import kubeconfig_of, read_kubeconfig, write_kubeconfig
from sam3ft_launch.slurm.agent.folders import OwnerNote, alone, claim, folder_of, noted
from sam3ft_launch.slurm.agent.planning import plan_of
from sam3ft_launch.slurm.agent.scheduler import TickClient, Unconfirmed
from sam3ft_launch.slurm.agent.wanted import SiteRun, Wish, site_run, wish_of
from sam3ft_launch.slurm.settings import SlurmSettings
from sam3ft_launch.slurm.states import JobView

PAGE = Path(__file__).parents[3] / "docs/slurm-agent.md"
NOW_S = 1_800_000_100.0
OPEN = {"attempts": [{"n": 2, "started": "2027-01-15T08:00:00Z"}], "started": "2027-01-15T08:00:00Z"}
CLOSED = {"attempts": [{"n": 2, "finished": "2027-01-15T08:00:00Z"}]}


def example() -> dict[str, Any]:
    text = PAGE.read_text().split("<!-- executed by a test: file -->\n```yaml\n")[1].split("```")[0]
    return dict(read_yaml(text, name="page").data)


def resource(status: dict[str, Any] = OPEN, *, is_deleted: bool = False, **spec: Any) -> SiteRun:
    body = example()
    metadata = {"namespace": "vision", "name": "blood", "uid": "0123456789ab"}
    metadata |= {"deletionTimestamp": "2027-01-15T08:00:00Z"} if is_deleted else {}
    found = site_run({"metadata": metadata, "spec": body["spec"] | spec, "status": status}, site="university")
    assert found is not None
    return found


def test_the_example_of_the_page_is_planned_like_any_run(tmp_path: Path):
    assert "university" == SAM3FineTune.model_validate(example()).spec.slurm.site
    run = resource()
    plan = plan_of(run, folder=folder_of(tmp_path, run), settings=SlurmSettings(), environ={})
    assert isinstance(plan, JobPlan)
    assert (2, "0123456789ab", "s3://runs/blood") == (plan.attempt, plan.uid, plan.config.checkpoint.uri)
    assert (plan.uid, 43_200) == (plan.config.identity.uid, plan.slurm.time_limit_s)


def test_resources_of_other_sites_and_backends_are_not_the_agents():
    body = {"spec": example()["spec"]}
    assert site_run(body, site="jura") is None
    assert site_run({"spec": body["spec"] | {"backend": "kubernetes"}}, site="university") is None
    assert site_run({}, site="university") is None


@pytest.mark.parametrize(
    ("run", "wish"),
    [
        (resource(), Wish.RUN),
        (resource({}), Wish.NOTHING),
        (resource(CLOSED), Wish.NOTHING),
        (resource(suspend=True), Wish.STOP),
        (resource({**OPEN, "phase": "Failed"}), Wish.STOP),
        (resource(activeDeadlineSeconds=60), Wish.STOP),
        (resource(activeDeadlineSeconds=10**6), Wish.RUN),
        (resource(is_deleted=True), Wish.END),
        (resource(CLOSED, is_deleted=True), Wish.NOTHING),
        (resource(nothing="known"), Wish.RUN),
        (resource(nothing="known", suspend=True), Wish.STOP),
        (resource({**OPEN, "phase": "SomeNewPhase", "conditions": "none"}), Wish.RUN),
    ],
)
def test_what_a_resource_asks_for(run: SiteRun, wish: Wish):
    assert wish is wish_of(run, now_s=NOW_S)


def test_a_spec_that_cannot_be_read_is_not_planned(tmp_path: Path):
    run = resource(nothing="known")
    with pytest.raises(InvalidConfig, match="same version"):
        plan_of(run, folder=folder_of(tmp_path, run), settings=SlurmSettings(), environ={})


def test_figures_are_held_to_what_a_status_may_hold():
    wild = Progress(state="training", step=-4, total_steps=2**60, epoch=-1.0, last_step_unix_s=1e300)
    assert {"commit_step": None} == report.figures(wild)
    told = report.figures(Progress(state="training", step=3, total_steps=9, best_metric="a\x1b[2J", best_value=1.0))
    assert (3, 9) == (told["progress"].step, told["progress"].total_steps)
    assert report.figures(None) == {}


def test_a_report_says_what_was_seen():
    told = SlurmStatus(site="university", attempt=1, intent="sft", job_id="7")
    job = JobView("7", "sft", "RUNNING", "", 0, "n[1-2]")
    seen = Observed(RunState.RUNNING, progress=Progress(state="training", step=3, total_steps=9), restarts=2)
    running = report.seen(told, seen, job, nodes=2)
    assert ("RUNNING", 2, 2, None, "n[1-2]") == (
        running.state, running.nodes, running.restarts, running.exit_code, running.node,
    )  # fmt: skip
    over = Observed(RunState.FAILED, exit_code=11, reason="InvalidDataset", message="key AKIAIOSFODNN7EXAMPLE\x07")
    ended = report.seen(running, over, None, nodes=2)
    assert ("RUNNING", 0, 11, "InvalidDataset") == (ended.state, ended.nodes, ended.exit_code, ended.ending)
    assert "\x07" not in ended.message


def test_a_report_is_sent_when_it_is_news():
    before = SlurmStatus(site="a", attempt=1, time=moment(NOW_S))
    assert report.is_worth_sending(None, before, since_s=0)
    assert not report.is_worth_sending(before, before.model_copy(update={"time": None}), since_s=99)
    figures = before.model_copy(update=report.figures(Progress(state="training", step=1, total_steps=9)))
    assert not report.is_worth_sending(before, figures, since_s=29)
    assert report.is_worth_sending(before, figures, since_s=30)
    assert report.is_worth_sending(before, before.model_copy(update={"state": "RUNNING"}), since_s=0)


def test_a_folder_belongs_to_one_resource(tmp_path: Path):
    run = resource()
    folder = folder_of(tmp_path, run)
    assert tmp_path / "vision/blood-01234567" == folder.root
    note = OwnerNote(account="sa-1", namespace="vision", name="blood", uid=run.uid, site="university")
    claim(folder, note)
    claim(folder, note)
    assert [note] == [found for _, found in noted(tmp_path)]
    with pytest.raises(Fenced, match="another resource"):
        claim(folder, note.model_copy(update={"uid": "other"}))
    (folder.root / "agent.json").write_text("{")
    assert [] == list(noted(tmp_path))


def test_one_agent_a_folder(tmp_path: Path):
    with alone(tmp_path / "runs"):
        assert isinstance(RunDir(tmp_path), RunDir)
        with pytest.raises(Fenced, match="another agent"), alone(tmp_path / "runs"):
            pass
    with alone(tmp_path / "runs"):
        pass
    (tmp_path / "runs").chmod(0o770)
    with pytest.raises(StorageDenied, match="chmod go-w"), alone(tmp_path / "runs"):
        pass


def test_a_kubeconfig_is_for_its_owner_alone(tmp_path: Path):
    path = tmp_path / "new" / "agent.yaml"
    document = kubeconfig_of(server="https://a", authority=b"pem", namespace="vision", account="x", token="t")  # noqa: S106
    write_kubeconfig(path, document)
    assert 0o600 == path.stat().st_mode & 0o777
    assert document == read_kubeconfig(path)
    assert "certificate-authority-data" in document["clusters"][0]["cluster"]
    path.write_text("a: b")
    with pytest.raises(InvalidConfig, match="enroll"):
        read_kubeconfig(path)
    with pytest.raises(InvalidConfig, match="enroll"):
        read_kubeconfig(tmp_path / "none")


def token(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"a.{payload}.c"


def test_what_a_token_says_of_itself_is_read():
    facts = facts_of(token(iat=10, exp=1234, **{"kubernetes.io": {"serviceaccount": {"uid": "sa-1"}}}))
    assert facts is not None
    assert (10.0, 1234.0, "sa-1") == (facts.issued_s, facts.expires_s, facts.account)
    assert facts_of("no token") is None
    assert facts_of("a.!!.c") is None


def test_a_token_is_renewed_written_down_and_used(tmp_path: Path):
    path = tmp_path / "agent.yaml"
    old, new = token(iat=0, exp=100), token(iat=50, exp=150)
    document = kubeconfig_of(server="https://127.0.0.1:1", authority=None, namespace="vision", account="x", token=old)
    write_kubeconfig(path, document)
    api = Api(ApiSettings(kubeconfig=str(path)))
    cluster = SiteCluster(api, namespace="vision", site="alps", holder="me")
    cluster.new_token = lambda *, seconds: new if seconds else ""  # type: ignore[method-assign]
    now_s = [19.0]
    credentials = Credentials(path, cluster, now_s=lambda: now_s[0])
    credentials.renew()
    assert f"Bearer {old}" == authorization(api)
    now_s[0] = 20.0
    credentials.renew()
    assert f"Bearer {new}" == authorization(api) == authorization(api)
    assert new == read_kubeconfig(path)["users"][0]["user"]["token"]
    assert not credentials.read_again()
    write_kubeconfig(path, document)
    assert credentials.read_again()
    assert f"Bearer {old}" == authorization(api)


def authorization(api: Api) -> str:
    headers: dict[str, str] = {}
    api._client.update_params_for_auth(headers, [], ["BearerToken"], "/", "GET", None)
    return headers["authorization"]


def test_a_cluster_that_gives_no_token_is_not_believed():
    class Empty:
        def create_in(self, *_: object) -> dict[str, Any]:
            return {"status": {}}

    empty: Any = Empty()
    with pytest.raises(ApiProblem, match="no token"):
        token_of(empty, "vision", "x", seconds=600)


class FakeCluster:
    """Leases and lists of runs, in place of an API server; a real one is in tests/integration."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] = {}
        self.page: dict[str, Any] = {"kind": "SAM3FineTuneList", "items": []}

    def get(self, *_: object) -> dict[str, Any]:
        if not self.lease:
            raise ApiProblem(404, "NotFound", "none")
        return self.lease

    def create(self, _kind: object, _namespace: str, body: dict[str, Any], *, manager: str) -> None:
        assert manager
        self.lease = {**body, "metadata": {"resourceVersion": "1"}}

    def replace(self, _kind: object, _namespace: str, _name: str, body: dict[str, Any], *, manager: str) -> None:
        assert manager
        version = int(self.lease["metadata"]["resourceVersion"]) + 1
        self.lease = {**body, "metadata": {"resourceVersion": str(version)}}

    def list(self, *_: object) -> dict[str, Any]:
        return self.page


def test_one_agent_acts_and_another_follows_when_it_is_gone():
    fake: Any = FakeCluster()
    now_s = [0.0]
    first, second = (
        SiteCluster(fake, namespace="vision", site="alps", holder=name, clock=lambda: now_s[0])
        for name in ("ada", "bob")
    )
    assert "" == first.give_sign()
    assert "ada" == second.give_sign()
    now_s[0] = 50.0
    assert "" == first.give_sign()
    now_s[0] = 70.0
    assert "ada" == second.give_sign()
    now_s[0] = 130.0
    assert "" == second.give_sign()
    assert "bob" == first.give_sign()


def test_what_is_no_list_of_runs_is_not_taken_for_an_empty_one():
    fake: Any = FakeCluster()
    cluster = SiteCluster(fake, namespace="vision", site="alps", holder="ada")
    assert [] == cluster.resources()
    for page in ({}, {"kind": "SAM3FineTuneList"}, {"kind": "Status", "items": []}):
        fake.page = page
        with pytest.raises(ApiProblem, match="no list"):
            cluster.resources()


class Scripted(TickClient):
    """Answers from a script in place of the programs, which only a site has; a real one is in tests/integration."""

    def __init__(self, answers: list[list[JobView] | TransientError]) -> None:
        super().__init__()
        self.answers, self.refuses = answers, False

    def _squeue(self, _selection: Any) -> list[JobView]:
        answer = self.answers.pop(0)
        if isinstance(answer, TransientError):
            raise answer
        return answer

    def _run(self, command: Any) -> tuple[int, str, str]:
        if self.refuses:
            return 1, "", "sbatch: error: no such partition"
        return (0, "7|sft|COMPLETED||n1\n", "") if command[0] == "sacct" else (0, "9\n", "")


def test_a_tick_asks_once_and_answers_everything_from_that(tmp_path: Path):
    job = JobView("7", "sft", "RUNNING", "", 0, "n1")
    client = Scripted([[job], [], [], TransientError("away")])
    assert client.look({"7": NOW_S})
    assert ({"7": job}, [job], {}) == (client.jobs(["7", "8"]), client.named("sft"), client.past(["7"], since_s=0))
    script = tmp_path / "script"
    script.write_text("#!/bin/bash\n#SBATCH --job-name=sft-9\n")
    assert "9" == client.submit(str(script))
    assert ["9"] == [job.job_id for job in client.named("sft-9")]
    assert "PENDING" == client.jobs(["9"])["9"].word
    assert client.look({"7": NOW_S})
    assert "COMPLETED" == client.past(["7"], since_s=0)["7"].word
    assert client.look({"7": NOW_S})
    assert (3, 1) == (client.squeues, client.sacctes)
    assert not client.look({"7": NOW_S})
    with pytest.raises(TransientError, match="away"):
        client.jobs(["7"])
    assert "COMPLETED" == client.known("7").word
    with pytest.raises(Unconfirmed):
        Scripted([[]]).past(["5"], since_s=0)


def test_a_refusal_counts_once_a_look_has_not_shown_the_job(tmp_path: Path):
    script = tmp_path / "script"
    script.write_text("#SBATCH --job-name=sft-9\n")
    client = Scripted([[], []])
    client.refuses = True
    client.look({})
    for _ in range(2):
        with pytest.raises(Unconfirmed, match="no such partition"):
            client.submit(str(script))
    client.look({})
    with pytest.raises(InvalidConfig, match="no such partition"):
        client.submit(str(script))
    assert 2 == client.squeues
