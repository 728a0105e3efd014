"""Fault plans: what they say, that they strike where they say, and that one which cannot is an error at once."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sam3ft_faults import installing
from sam3ft_faults.installing import check_seams, fault_environment
from sam3ft_faults.plans import ACTIONS, NAN_PHASES, PHASES, FaultPlan, FaultPlanError, parse_plans
from sam3ft_faults.seams import SEAMS, Seam
from sam3ft_faults.striking import PLAN_ERROR, InjectedFault, Striker, fired

ROOT = Path(__file__).parents[3]


def test_a_plan_says_phase_rank_step_and_signal():
    plans = parse_plans("backward:1:3:KILL, upload@4096:0:6:raise,data:*:*:sleep=2.5")

    assert (
        FaultPlan("backward", rank=1, step=3, action="KILL"),
        FaultPlan("upload", rank=0, step=6, action="raise", at_byte=4096),
        FaultPlan("data", rank=None, step=None, action="sleep", seconds=2.5, repeats=True),
    ) == plans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("backward:1:3", "is not PHASE"),
        ("backward:x:3:KILL", "is not PHASE"),
        ("forwards:1:3:KILL", "phase 'forwards' is unknown; allowed are before_forward, "),
        ("backward:1:3:HUP", "signal 'HUP' is unknown"),
        ("backward:1:3:KILL=2", "signal 'KILL' is unknown|KILL"),
        ("backward:1:3:sleep", "sleep needs seconds"),
        ("backward:1:3:sleep=long", "sleep needs seconds"),
        ("stage:1:3:nan", "nan is possible in all_reduce, backward, before_forward"),
        ("stage@9:1:3:KILL", "@BYTE belongs to upload"),
    ],
)
def test_a_text_that_is_no_plan_is_refused(text: str, words: str):
    with pytest.raises(FaultPlanError, match=words):
        parse_plans(text)


def test_every_phase_has_exactly_one_seam_and_every_seam_exists():
    assert sorted(PHASES) == sorted(phase for seam in SEAMS for phase in seam.phases)
    check_seams([FaultPlan(phase, rank=0, step=0, action="KILL") for phase in PHASES])


def test_a_seam_that_the_trainer_lacks_is_an_error_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gone = Seam("sam3ft_trainer.run.step", "Stepper.no_such_method", ("backward",), SEAMS[0].wrap)
    monkeypatch.setattr(installing, "SEAMS", (gone,))

    with pytest.raises(FaultPlanError, match=r"sam3ft_trainer.run.step:Stepper.no_such_method does not exist"):
        fault_environment("backward:0:0:KILL", tmp_path)


def python(code: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def toy(tmp_path: Path) -> dict[str, str]:
    """An environment with a trainer of two lines and a plan for its only seam."""
    package = tmp_path / "toy/sam3ft_trainer/store"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "resuming.py").write_text("class Resumer:\n    def _try(self, commit):\n        return 'loaded'\n")
    environment = fault_environment("restore:0:4:raise", tmp_path / "records", {"PATH": "/usr/bin", "RANK": "0"})
    return environment | {"PYTHONPATH": f"{environment['PYTHONPATH']}:{tmp_path / 'toy'}"}


CALL = """
from types import SimpleNamespace as N
from sam3ft_trainer.store.resuming import Resumer
for step in (3, 4, 4):
    try:
        print(step, Resumer()._try(N(meta=N(step=step))))
    except Exception as error:
        print(step, type(error).__name__)
"""


def test_a_process_with_the_plan_strikes_once_at_its_step_and_leaves_a_record(tmp_path: Path, toy: dict[str, str]):
    first, again = python(CALL, toy), python(CALL, toy)

    assert ("3 loaded\n4 InjectedFault\n4 loaded\n", "") == (first.stdout, first.stderr)
    assert "3 loaded\n4 loaded\n4 loaded\n" == again.stdout
    (record,) = fired(tmp_path / "records")
    assert (0, 0, 4, "restore") == (record["plan"], record["rank"], record["step"], record["fault"]["phase"])


def test_another_rank_and_a_process_without_plan_are_left_alone(tmp_path: Path, toy: dict[str, str]):
    other = python(CALL, toy | {"RANK": "1"})
    toy.pop("SAM3FT_FAULT_PLAN")

    assert "3 loaded\n4 loaded\n4 loaded\n" == other.stdout == python(CALL, toy).stdout
    assert [] == fired(tmp_path / "records")


def test_a_plan_that_cannot_be_carried_out_ends_the_process_at_once(toy: dict[str, str], tmp_path: Path):
    unknown = python("print('alive')", toy | {"SAM3FT_FAULT_PLAN": "nowhere:0:4:raise"})
    (tmp_path / "toy/sam3ft_trainer/store/resuming.py").write_text("class Resumer:\n    pass\n")
    missing = python(CALL, toy)

    assert (PLAN_ERROR, "") == (unknown.returncode, unknown.stdout)
    assert "phase 'nowhere' is unknown" in unknown.stderr
    assert (PLAN_ERROR, "") == (missing.returncode, missing.stdout)
    assert "seam sam3ft_trainer.store.resuming:Resumer._try does not exist" in missing.stderr


def test_a_sitecustomize_of_the_machine_is_still_read(toy: dict[str, str], tmp_path: Path):
    (tmp_path / "toy/sitecustomize.py").write_text("import builtins\nbuiltins.was_read = True\n")

    assert "True\n" == python("print(was_read)", toy).stdout


def test_a_star_strikes_every_time(tmp_path: Path):
    striker = Striker(parse_plans("data:*:*:raise"), tmp_path)

    for step in range(3):
        with pytest.raises(InjectedFault):
            striker.strike("data", step)

    assert [0, 1, 2] == [record["step"] for record in fired(tmp_path)]


def test_a_question_mark_strikes_the_first_time_alone(tmp_path: Path):
    striker = Striker(parse_plans("data:*:?:raise"), tmp_path)

    with pytest.raises(InjectedFault):
        striker.strike("data", 7)
    striker.strike("data", 8)

    assert [7] == [record["step"] for record in fired(tmp_path)]


def test_a_plus_strikes_once_at_the_step_or_the_first_after_it(tmp_path: Path):
    striker = Striker(parse_plans("data:*:6+:raise"), tmp_path)

    striker.strike("data", 5)
    with pytest.raises(InjectedFault):
        striker.strike("data", 8)
    striker.strike("data", 9)

    assert [8] == [record["step"] for record in fired(tmp_path)]


def test_only_nan_is_left_to_the_seam(tmp_path: Path):
    striker = Striker(parse_plans("backward:0:1:nan,backward:0:2:sleep=0"), tmp_path)

    assert [False, True, False] == [striker.strike("backward", step) for step in range(3)]
    assert NAN_PHASES <= set(PHASES)
    assert 8 == len(ACTIONS)


def test_the_wheel_holds_nothing_of_the_harness(tmp_path: Path):
    build = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == build.returncode, build.stderr
    archive = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    names = archive.namelist()

    assert {"sam3ft_api", "sam3ft_launch", "sam3ft_operator", "sam3ft_trainer"} == {
        name.split("/")[0] for name in names if ".dist-info/" not in name
    }
    assert [] == [name for name in names if "sam3ft_faults" in name or "sitecustomize" in name]
    words = (b"SAM3FT_FAULT", b"sam3ft_faults")
    assert [] == [name for name in names if any(word in archive.read(name) for word in words)]
