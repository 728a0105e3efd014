"""From a file to a plan for this machine."""

from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.plan import RestartBudget
from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.local.devices import choose_processes, num_gpus
from sam3ft_launch.prepare import Prepared, load, plan_here, prepare_config

YAML = """\
apiVersion: sam3ft.dev/v1alpha1
kind: SAM3FineTune
metadata: {name: cells}
spec:
  model: {uri: preset:tiny}
  data: {uri: blood}
  training: {globalBatchSize: 4, epochs: 2}
  workers: {terminationGracePeriodSeconds: 33}
  failurePolicy: {maxRestarts: 1, windowSeconds: 60, maxWithoutProgress: 2}
  activeDeadlineSeconds: 600
"""


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam3ft_launch.prepare.num_gpus", lambda _environment: 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "finetune.yaml"
    path.parent.mkdir()
    path.write_text(YAML)
    return path


def prepared(file: Path, *assignments: str) -> Prepared:
    return load(file, assignments=assignments)


def test_folders_are_relative_to_the_file(file: Path):
    changed = prepared(file, "model.uri=../weights", "checkpoint.uri=ck", "export.uri=/abs/model")

    assert str(file.parent / "blood") == changed.config.data.uri
    assert str(file.parent.parent / "weights") == changed.config.model.uri
    assert str(file.parent / "ck") == changed.config.checkpoint.uri
    assert "/abs/model" == changed.config.export.uri


def test_addresses_of_stores_and_presets_stay(file: Path):
    changed = prepared(file, "data.uri=s3://bucket/blood", "checkpoint.uri=gs://bucket/run")

    assert "preset:tiny" == changed.config.model.uri
    assert "s3://bucket/blood" == changed.config.data.uri
    assert "gs://bucket/run" == changed.config.checkpoint.uri


def test_images_and_annotations_are_relative_to_the_data_set(file: Path):
    changed = prepared(file, "data.train={images: pictures, annotations: a.json}")

    assert str(file.parent / "blood/pictures") == changed.config.data.train.images
    assert str(file.parent / "blood/a.json") == changed.config.data.train.annotations


def test_the_home_folder_is_understood(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")

    assert "/home/ada/blood" == prepared(file, "data.uri=~/blood").config.data.uri


def test_the_copy_of_the_file_names_the_assignments(file: Path):
    changed = prepared(file, "training.epochs=9")

    assert 9 == changed.config.scratch.max_data_epochs
    assert "# --set training.epochs=9\n" + YAML == changed.source


def test_a_wrong_field_is_named_also_when_it_was_set(file: Path):
    with pytest.raises(InvalidConfig, match=r"with --set.*spec\.training\.epoch: unknown key.*did you mean epochs"):
        prepared(file, "training.epoch=9")


@pytest.mark.parametrize("assignments", [(), ("training.epochs=1",)])
def test_a_missing_file_is_named(tmp_path: Path, assignments: tuple[str, ...]):
    with pytest.raises(InvalidConfig, match=r"nothing\.yaml: cannot be read"):
        load(tmp_path / "nothing.yaml", assignments=assignments)


@pytest.mark.parametrize("assignments", [(), ("training.epochs=1",)])
def test_a_file_that_holds_no_run_is_refused(tmp_path: Path, assignments: tuple[str, ...]):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")

    with pytest.raises(InvalidConfig, match="SAM3FineTune"):
        load(tmp_path / "list.yaml", assignments=assignments)


def test_a_plan_takes_times_and_budgets_from_the_file(file: Path, tmp_path: Path):
    plan = plan_here(prepared(file), folder=RunDir(tmp_path / "r"), uid="u", attempt=3, nproc=None)

    assert (33.0, 600.0) == (plan.grace_s, plan.deadline_s)
    assert RestartBudget(max_restarts=1, window_s=60, max_without_progress=2) == plan.budget
    assert ("cells", "u", 3, 1) == (plan.name, plan.uid, plan.attempt, plan.world_size)
    assert ("cells", "u") == (plan.config.identity.name, plan.config.identity.uid)


def test_warm_spares_are_in_the_plan_when_the_file_asks_for_them(file: Path, tmp_path: Path):
    plans = [
        plan_here(prepared(file, *words), folder=RunDir(tmp_path / "r"), uid="u", attempt=1, nproc=None)
        for words in ((), ("workers.warmSpares=true",))
    ]

    assert [False, True] == [plan.warm_spares for plan in plans]


def test_checkpoints_and_model_go_into_the_run_folder_unless_the_file_says_otherwise(file: Path, tmp_path: Path):
    folder = RunDir(tmp_path / "r")

    default = plan_here(prepared(file), folder=folder, uid="u", attempt=1, nproc=None)
    chosen = plan_here(prepared(file, "export.uri=/m"), folder=folder, uid="u", attempt=1, nproc=None)

    assert (str(folder.checkpoints), str(folder.model)) == (default.config.checkpoint.uri, default.config.export.uri)
    assert (str(folder.checkpoints), "/m") == (chosen.config.checkpoint.uri, chosen.config.export.uri)


@pytest.mark.parametrize(
    ("address", "environ", "expected"),
    [
        ("data.uri=s3://b/cells", {}, {"SAM3FT_CACHE_DIR": "/home/u/.cache/sam3ft/node"}),
        ("checkpoint.uri=gs://b/run", {"XDG_CACHE_HOME": "/c"}, {"SAM3FT_CACHE_DIR": "/c/sam3ft/node"}),
        ("data.train.images=az://b/pictures", {}, {"SAM3FT_CACHE_DIR": "/home/u/.cache/sam3ft/node"}),
        ("data.uri=s3://b/cells", {"SAM3FT_CACHE_DIR": "/fast"}, {}),
        ("data.uri=s3://b/cells", {"SAM3FT_CACHE_DIR": ""}, {}),
        ("data.uri=/folder", {}, {}),
    ],
)
def test_what_comes_from_a_bucket_is_kept_on_this_machine_unless_the_user_says_where(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    environ: dict[str, str],
    expected: dict[str, str],
):
    for name in ("SAM3FT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/u", **environ}.items():
        monkeypatch.setenv(name, value)

    plan = plan_here(prepared(file, address), folder=RunDir(tmp_path), uid="u", attempt=1, nproc=None)

    assert expected == plan.env


def test_more_processes_than_the_global_batch_are_refused(file: Path, tmp_path: Path):
    with pytest.raises(InvalidConfig, match=r"5 processes .* global batch of 4 images; set --nproc to 1\.\.4"):
        plan_here(prepared(file), folder=RunDir(tmp_path), uid="u", attempt=1, nproc=5)


def test_a_document_composed_elsewhere_is_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    run = prepare_config({"data": {"uri": "d"}, "identity": {"name": "hydra"}})

    assert ("hydra", str(tmp_path / "d")) == (run.name, run.config.data.uri)
    with pytest.raises(InvalidConfig, match=r"scratch\.resolution"):
        prepare_config({"scratch": {"resolution": 1}})


@pytest.mark.parametrize(
    ("asked", "per_node", "here", "expected"),
    [(None, 8, 0, 1), (None, 8, 2, 2), (None, 1, 4, 1), (None, 0, 4, 1), (3, 8, 0, 3), (3, 1, 1, 3)],
)
def test_processes_follow_the_devices_unless_asked(asked: int | None, per_node: int, here: int, expected: int):
    assert expected == choose_processes(asked=asked, gpus_per_node=per_node, gpus_here=here)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, 3), ("", 0), ("0", 1), ("0,2", 2), ("-1", 0), ("0,-1,2", 1), ("GPU-ab12,GPU-cd34", 2), ("0,1,2,3,4", 3)],
)
def test_devices_are_counted_as_cuda_would_see_them(tmp_path: Path, visible: str | None, expected: int):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert expected == num_gpus(environment, devices=tmp_path)
