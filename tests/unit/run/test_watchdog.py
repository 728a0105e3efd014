import subprocess
import sys
import time
from pathlib import Path

from sam3ft_trainer.run.watchdog import Watchdog

STUCK = """
import sys, threading, time
from pathlib import Path
from sam3ft_trainer.run.watchdog import Watchdog
folder = Path(sys.argv[1])
watchdog = Watchdog(0.4, folder / "stacks.txt", lambda message: (folder / "word.txt").write_text(message))
watchdog.beat("waiting for a lock that nobody opens")
def stuck_here():
    threading.Lock().acquire() or threading.Event().wait()
lock = threading.Lock(); lock.acquire()
def waits_for_the_lock():
    lock.acquire()
waits_for_the_lock()
"""


def test_a_stuck_process_ends_with_24_and_shows_where_it_stood(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK, str(tmp_path)], timeout=30, check=False)

    assert ended.returncode == 24
    assert "waits_for_the_lock" in (tmp_path / "stacks.txt").read_text()
    assert "waiting for a lock that nobody opens" in (tmp_path / "word.txt").read_text()


def test_a_beating_process_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []
    watchdog = Watchdog(0.3, tmp_path / "stacks.txt", said.append)
    for _ in range(6):
        time.sleep(0.1)
        watchdog.beat("working")
    watchdog.close()

    assert said == []
