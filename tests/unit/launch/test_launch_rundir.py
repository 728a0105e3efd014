"""The run folder: paths, the lock, and what stays when it is cleared."""

import subprocess
import sys
from pathlib import Path

import pytest

from sam3ft_api.errors import Fenced, StorageDenied
from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.folder.rundir import RunDir

HOLDER = """
import sys, time
from pathlib import Path
from sam3ft_launch.folder.rundir import RunDir
with RunDir(Path(sys.argv[1])).driving():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path / "run")
    folder.create()
    return folder


def test_one_process_at_a_time_drives_a_folder(folder: RunDir):
    with folder.driving(), pytest.raises(Fenced, match="driven by another process") as caught, folder.driving():
        pass

    assert ExitCode.FENCED == caught.value.code
    assert "--run-dir" in str(caught.value)


def test_the_lock_is_free_again_after_use(folder: RunDir):
    with folder.driving():
        pass
    with folder.driving() as descriptor:
        assert descriptor >= 0


def test_a_lock_whose_holder_was_killed_is_free(folder: RunDir):
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder.root], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(Fenced), folder.driving():
            pass

        holder.kill()

    with folder.driving(wait_s=5):
        pass


def test_waiting_for_a_lock_is_bounded(folder: RunDir):
    with folder.driving(), pytest.raises(Fenced), folder.driving(wait_s=0.2):
        pass


def test_a_lock_file_that_was_removed_and_made_anew_guards_again(folder: RunDir):
    with folder.driving():
        folder.remove_state()
        folder.create()

        with folder.driving(), pytest.raises(Fenced), folder.driving():
            pass


def test_clearing_leaves_what_belongs_to_the_user(folder: RunDir):
    folder.checkpoints.mkdir()
    (folder.work / "run.log").write_text("x")
    folder.config.write_text("{}")

    folder.remove_state()

    assert [folder.checkpoints] == list(folder.root.iterdir())


def test_clearing_an_otherwise_empty_folder_removes_it(folder: RunDir):
    folder.remove_state()

    assert not folder.root.exists()


def test_a_file_in_the_place_of_the_folder_is_refused_by_name(tmp_path: Path):
    (tmp_path / "run").write_text("a file")

    with pytest.raises(StorageDenied, match="is a file; name another folder with --run-dir"):
        RunDir(tmp_path / "run").create()


def test_the_work_folder_is_private(folder: RunDir):
    assert 0o700 == folder.work.stat().st_mode & 0o777
