"""What SLURM's programs say, and what a person is told of it."""

import stat
import subprocess
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.worker import ENV_RUN_KEY
from sam3ft_launch.backend import TransientError
from sam3ft_launch.slurm.client import SlurmClient
from sam3ft_launch.slurm.environment import environment_file, job_environment
from sam3ft_launch.slurm.settings import SlurmSettings, read_settings, settings_file
from sam3ft_launch.slurm.states import JobState, JobView, sentence

HOSTILE = ["a b", "a,b", "it's", 'say "x"', "a\nb", "$(touch pwned)", "`touch pwned`", "${HOME}", "a;b", "\\", "*"]


def job(word: str, reason: str = "", restarts: int = 0) -> JobView:
    return JobView("7", "sft-x", word, reason, restarts, "")


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (job("PENDING", "Priority"), JobState.QUEUED),
        (job("PENDING", "BeginTime", 1), JobState.REQUEUED),
        (job("PENDING", "JobHeldUser"), JobState.HELD),
        (job("PENDING", "launch_failed_requeued_held", 2), JobState.HELD),
        (job("CONFIGURING"), JobState.STARTING),
        (job("RUNNING"), JobState.RUNNING),
        (job("COMPLETING"), JobState.ENDING),
        (job("NODE_FAIL"), JobState.NODE_FAILURE),
        (job("OUT_OF_MEMORY"), JobState.OUT_OF_MEMORY),
        (job("TIMEOUT"), JobState.TIME_LIMIT),
        (job("A_WORD_OF_TOMORROW"), JobState.UNKNOWN),
    ],
)
def test_words_mean_states(seen: JobView, state: JobState):
    assert state is seen.state
    assert not JobState.UNKNOWN.is_over


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (job("PENDING", "Priority"), "waits for nodes (Priority)"),
        (job("PENDING", "Dependency"), "waits for another job of its name"),
        (job("PENDING", "QOSMaxGRESPerUser"), "waits for a share of what the account may use"),
        (job("PENDING", "PartitionNodeLimit"), "cannot start (PartitionNodeLimit): the partition does not let"),
        (job("PENDING", "ReqNodeNotAvail,_UnavailableNodes:n[1-2]"), "look at them with sinfo"),
        (job("PENDING", "BeginTime", 1), "in the queue again (BeginTime)"),
        (job("PENDING", "JobHeldAdmin"), "`scontrol release 7`"),
        (job("SUSPENDED"), "job 7 is SUSPENDED"),
    ],
)
def test_a_person_is_told_why_a_job_waits(seen: JobView, words: str):
    assert words in sentence(seen)


def programs(folder: Path, **scripts: str) -> SlurmClient:
    """Return a client whose programs are these shell scripts: answers of versions that are not installed here."""
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return SlurmClient(environ={"PATH": f"{folder}:/usr/bin:/bin", "SQUEUE_PARTITION": "x"}, answer_s=2.0)


def test_a_job_number_is_read_with_and_without_a_cluster(tmp_path: Path):
    assert "12" == programs(tmp_path, sbatch="echo '12;tinyx'").submit("/s")
    assert "12" == programs(tmp_path, sbatch="echo 12").submit("/s")


def test_a_refusal_is_told_in_slurms_words(tmp_path: Path):
    refusal = "echo 'sbatch: error: invalid partition specified: gpux' >&2; exit 1"

    with pytest.raises(InvalidConfig, match=r"SLURM refuses the job: .*invalid partition specified: gpux"):
        programs(tmp_path, sbatch=refusal).submit("/s")


@pytest.mark.parametrize(
    "script",
    [
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1",
        "echo 'sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received' >&2; exit 1",
        "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
        "sleep 5",
        "exit 0",
    ],
)
def test_an_answer_that_does_not_come_is_no_refusal(script: str, tmp_path: Path):
    with pytest.raises(TransientError):
        programs(tmp_path, sbatch=script).submit("/s")


def test_a_machine_without_slurm_is_told_so(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="squeue is not on this machine; run on a login node"):
        SlurmClient(environ={"PATH": str(tmp_path)}).jobs(["1"])


def test_jobs_are_read_by_width_whatever_their_names_hold(tmp_path: Path):
    fields = ["12", "a name | with, signs", "PENDING", "None", "3", ""]
    line = "".join(field.ljust(256) for field in fields)
    (tmp_path / "answer").write_text(f"{line}\n")

    found = programs(tmp_path, squeue=f"cat {tmp_path}/answer").jobs(["12"])

    assert {"12": JobView("12", "a name | with, signs", "PENDING", "", 3, "")} == found


def test_a_number_that_nobody_knows_is_no_error(tmp_path: Path):
    client = programs(
        tmp_path,
        squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1",
    )

    assert {} == client.jobs(["12"])
    assert {} == client.past(["12"], since_s=0.0)


def test_variables_that_change_answers_do_not_reach_the_programs(tmp_path: Path):
    client = programs(tmp_path, squeue='[ -z "${SQUEUE_PARTITION+x}" ] || echo bad >&2; [ -z "${SQUEUE_PARTITION+x}" ]')

    assert {} == client.jobs(["12"])


@pytest.mark.parametrize("value", HOSTILE)
def test_every_value_of_the_environment_is_literal(value: str, tmp_path: Path):
    path = tmp_path / "env"
    path.write_text(environment_file({"SCRIPT": value}))

    command = ["bash", "-c", f'source {path}; printf %s "$SCRIPT"']
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert value == shown.stdout
    assert not (tmp_path / "pwned").exists()


def test_a_job_takes_over_what_it_needs_for_its_stores_and_nothing_else():
    environ = {"AWS_ACCESS_KEY_ID": "k", "SAM3FT_DATA_AWS_REGION": "r", "HTTPS_PROXY": "p", "SECRET": "s", "PATH": "x"}

    taken = job_environment({"A": "1"}, environ)

    assert {"A", "AWS_ACCESS_KEY_ID", "SAM3FT_DATA_AWS_REGION", "HTTPS_PROXY", ENV_RUN_KEY} == set(taken)
    assert 64 == len(taken[ENV_RUN_KEY])
    assert taken[ENV_RUN_KEY] != job_environment({}, {})[ENV_RUN_KEY]


def test_a_job_takes_over_what_the_sinks_need_and_nothing_else_of_theirs():
    environ = {"WANDB_API_KEY": "k", "MLFLOW_TRACKING_URI": "u", "OTEL_EXPORTER_OTLP_HEADERS": "h"}

    more = {"WANDB_NOTES": "n", "MLFLOW_RUN_ID": "r", "OTEL_SERVICE_NAME": "s"}

    taken = job_environment({}, environ | more, sinks=("wandb", "otlp"))

    assert {"WANDB_API_KEY", "OTEL_EXPORTER_OTLP_HEADERS", ENV_RUN_KEY} == set(taken)
    assert {ENV_RUN_KEY} == set(job_environment({}, environ))


def test_settings_are_defaults_without_a_file_and_named_by_the_environment(tmp_path: Path):
    assert SlurmSettings() == read_settings(tmp_path / "none.yaml")
    assert tmp_path / "a.yaml" == settings_file({"SAM3FT_SLURM_SETTINGS": f"{tmp_path}/a.yaml"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("runtime: apptainer", "need an image"),
        ("image: a.sif", "none takes none"),
        ("partitions: gpu", "partition"),
        ('setup: ["a\\nb"]', "setup"),
        ("options: ['rm -rf /']", "options"),
        ("mounts: ['/a,/b:/c']", "mounts"),
        ("python: '/usr/bin/python; id'", "python"),
    ],
)
def test_settings_that_cannot_be_are_refused(text: str, words: str, tmp_path: Path):
    path = tmp_path / "slurm.yaml"
    path.write_text(text)

    with pytest.raises(InvalidConfig, match=words):
        read_settings(path)
