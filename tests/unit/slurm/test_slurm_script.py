"""The batch scripts that people read: golden files, and what must not become part of a shell's line."""

import subprocess
from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.plan import JobPlan, Placement, RestartBudget, SlurmPlacement
from sam3ft_api.training import TrainingConfig
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.slurm.node_script import render_node_script
from sam3ft_launch.slurm.script import render_script
from sam3ft_launch.slurm.settings import SlurmSettings

GOLDEN = Path(__file__).parents[2] / "golden/slurm"
PYTHON = "/home/ada/sam3ft/bin/python"
FOLDER = RunDir(Path("/scratch/ada/runs/blood-cells"))
SITES = {
    "one-node": SlurmSettings(python=PYTHON),
    "two-nodes": SlurmSettings(
        python=PYTHON,
        gpus="gres",
        gpu_type="a100",
        account="bio-12",
        setup=("module load cuda/12.8",),
        options=("--qos=long", "--exclude=node[07-08]"),
    ),
    "apptainer": SlurmSettings(runtime="apptainer", image="/images/sam3ft.sif", mounts=("/data",)),
    "pyxis": SlurmSettings(runtime="pyxis", image="registry.example/sam3ft-trainer:1", mounts=("/data",)),
}


def plan(name: str = "one-node", **changes: object) -> JobPlan:
    """Return a plan with everything that a script may show."""
    nodes = 1 if name == "one-node" else 2
    values: dict[str, object] = {
        "name": "blood-cells",
        "uid": "local-0123456789abcdef",
        "backend": "slurm",
        "config": TrainingConfig.model_validate({"scratch": {"train_batch_size": 16}}),
        "nodes": nodes,
        "min_nodes": nodes,
        "max_nodes": nodes,
        "processes_per_node": 4,
        "gpus_per_node": 4,
        "slurm": SlurmPlacement(site="here", partition="gpu", time_limit_s=12 * 3600),
        "budget": RestartBudget(),
        **changes,
    }
    return JobPlan.model_validate(values)


def test_the_scripts_of_an_elastic_run_are_as_they_were_read(request: pytest.FixtureRequest):
    wanted = plan("two-nodes", min_nodes=1, start_deadline_s=300.0)
    for name, render in (("elastic", render_script), ("elastic-node", render_node_script)):
        script, path = render(wanted, SITES["one-node"], FOLDER), GOLDEN / f"{name}.sbatch"
        if request.config.getoption("--write-golden"):
            path.write_text(script)
        assert path.read_text() == script
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("name", SITES)
def test_the_script_is_as_it_was_read(name: str, request: pytest.FixtureRequest):
    more = {} if name == "one-node" else {"deadline_s": 86_400.0, "placement": Placement(resources=_RESOURCES)}
    script = render_script(plan(name, **more), SITES[name], FOLDER)
    path = GOLDEN / f"{name}.sbatch"
    if request.config.getoption("--write-golden"):
        path.write_text(script)

    assert path.read_text() == script
    assert 0 == subprocess.run(["bash", "-n", str(path)], check=False).returncode


_RESOURCES = {"cpu": "7500m", "memory": "64Gi"}


@pytest.mark.parametrize(
    "path",
    ["/runs/a'b", '/runs/a"b', "/runs/$(touch x)", "/runs/`id`", "/runs/a\nb", "/runs/a;b", "/runs/%j", "/a:b", "/a,b"],
)
def test_a_folder_that_means_something_else_is_refused(path: str):
    with pytest.raises(InvalidConfig, match="run folder"):
        render_script(plan(), SITES["one-node"], RunDir(Path(path)))


def test_a_folder_with_spaces_is_one_word_everywhere():
    script = render_script(plan(), SITES["one-node"], RunDir(Path("/scratch/my runs/a")))

    assert '#SBATCH --output="/scratch/my runs/a/work/run.log"' in script
    assert "run='/scratch/my runs/a'" in script


def test_a_time_limit_without_time_to_save_is_refused():
    with pytest.raises(InvalidConfig, match=r"slurm\.timeLimit is 60 s; set 120 s or more"):
        render_script(plan(slurm=SlurmPlacement(site="here", time_limit_s=60)), SITES["one-node"], FOLDER)


@pytest.mark.parametrize(("limit_s", "warning_s"), [(None, 150), (12 * 3600, 150), (240, 60), (120, 30)])
def test_a_job_is_warned_early_enough_to_save_and_not_for_most_of_its_time(limit_s: int | None, warning_s: int):
    script = render_script(plan(slurm=SlurmPlacement(site="x", time_limit_s=limit_s)), SITES["one-node"], FOLDER)

    assert f"#SBATCH --signal=USR2@{warning_s}\n" in script


def test_a_site_without_gpus_is_asked_for_none():
    script = render_script(plan(), SlurmSettings(python=PYTHON, gpus="none"), FOLDER)

    assert "--gpus" not in script
    assert "--gres=gpu" not in script
