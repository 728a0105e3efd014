"""What a node of an elastic run does when its coordinator moves."""

import os
import sys
import threading
import time
from pathlib import Path

from sam3ft_launch.folder.rundir import RunDir
from sam3ft_launch.folder.stop import StopRequest, write_stop_request
from sam3ft_launch.slurm.member import is_newest, run_launcher

DEAF = (sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
OBEYS = (sys.executable, "-c", "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(20)); time.sleep(60)")


def meeting(folder: RunDir, name: str, *, at_s: float) -> Path:
    path = folder.work / f"coordinator-1-{name}-0.json"
    path.write_text("{}")
    os.utime(path, (at_s, at_s))
    return path


def test_the_newest_coordinator_counts(tmp_path: Path):
    folder = RunDir(tmp_path)
    folder.create()
    old, new = meeting(folder, "10", at_s=1), meeting(folder, "11", at_s=2)

    assert (False, True) == (is_newest(old), is_newest(new))
    new.unlink()
    assert (True, False) == (is_newest(old), is_newest(new))


def test_a_launcher_whose_coordinator_is_gone_is_ended_and_the_node_looks_again(tmp_path: Path):
    folder = RunDir(tmp_path)
    folder.create()
    path = meeting(folder, "10", at_s=1)
    threading.Timer(2.0, path.unlink).start()
    began_s = time.monotonic()

    assert 23 == run_launcher(OBEYS, folder, attempt=1, meeting=path)
    assert 1.5 < time.monotonic() - began_s < 20


def test_the_launcher_beside_its_coordinator_stays(tmp_path: Path):
    folder = RunDir(tmp_path)
    folder.create()
    quick = (sys.executable, "-c", "import time; time.sleep(2.5)")

    assert 0 == run_launcher(quick, folder, attempt=1)


def test_who_is_asked_to_stop_stops_for_that_reason(tmp_path: Path):
    folder = RunDir(tmp_path)
    folder.create()
    path = meeting(folder, "10", at_s=1)
    request = StopRequest(attempt=1, grace_s=0.5)
    threading.Timer(3.0, write_stop_request, (folder.stop_request, request)).start()

    assert 137 == run_launcher(DEAF, folder, attempt=1, meeting=path)
