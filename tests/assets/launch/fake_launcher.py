"""Stands in for the launcher where only the supervisor is tested: same arguments, a script instead of training.

The environment variable SCRIPT holds space-separated acts, one for each start; the last one repeats. SCRIPT_1 is the
one of slot 1, and so on, where it is set:
    end:CODE    write a last word and end with CODE
    die:SIGNAL  end by that signal, without a last word
    wait        report progress, then end with 20 on SIGTERM or SIGUSR2
    deaf        report progress and ignore both
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from sam3ft_api.exit_codes import rule_for
from sam3ft_api.termination import Termination
from sam3ft_api.worker import PROGRESS_FILE, Progress

parser = argparse.ArgumentParser()
for option in ("--config", "--work-dir", "--nproc", "--coordinator", "--attempt", "--termination-log"):
    parser.add_argument(option, required=True)
for option in ("--max-restarts", "--restart-window-s", "--max-without-progress", "--eviction-grace-s"):
    parser.add_argument(option)
for option in ("--node", "--slot", "--address", "--min-nodes"):  # a node of several is told these, too
    parser.add_argument(option)
arguments = parser.parse_args()
work = Path(arguments.work_dir)


def leave(code: int) -> None:
    word = Termination(
        code=code, reason=rule_for(code).reason, message=f"the script said {code}", node=arguments.node or ""
    )
    Path(arguments.termination_log).write_text(word.to_json())
    sys.exit(code)


starts = work / "starts"
with starts.open("a") as stream:
    stream.write(f"{os.getpid()}\n")
number = len(starts.read_text().split())
acts = (os.environ.get(f"SCRIPT_{arguments.slot}") or os.environ["SCRIPT"]).split()
act, _, value = acts[min(number, len(acts)) - 1].partition(":")
print(f"start {number}: {act} {value}; {os.environ.get('SLURM_GPUS_ON_NODE', 'no')} GPUs", flush=True)
if act == "end":
    leave(int(value))
if act == "die":
    os.kill(os.getpid(), int(value))
for asked in (signal.SIGTERM, signal.SIGUSR2):
    if act == "wait":
        signal.signal(asked, lambda *_: leave(20))
    if act == "deaf":
        signal.signal(asked, signal.SIG_IGN)
(work / PROGRESS_FILE).write_text(Progress(state="training", step=3, total_steps=9).model_dump_json())
while True:
    time.sleep(0.05)
