"""A worker for tests of the launcher: does what its arguments say, without torch.

Arguments: actions separated by commas, one list per start of this local rank; the last list serves all later starts.
    exit=N        leave without a last word        result=N   write a result with code N, then exit with it
    raise=TEXT    an unhandled exception           say=TEXT   print a line
    kill=N        send oneself signal N            sleep=S    sleep
    trace         print a traceback and go on      deaf       ignore SIGTERM
    commit=N      progress.json with checkpoint N  spawn      leave a child behind in this session
    until-flag    wait for the flag, save, end     mb=N       tell this micro-batch in results
    only=R        other ranks skip to until-flag
"""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

RANK = int(os.environ["RANK"])
WORK = Path(os.environ["SAM3FT_WORK_DIR"])
FLAG = Path(os.environ["SAM3FT_FLAG_FILE"])
RESULT = Path(os.environ["SAM3FT_RESULT_FILE"])


def count_start() -> int:
    path = WORK / f"starts-{os.environ['LOCAL_RANK']}"
    starts = path.read_text().splitlines() if path.exists() else []
    keep = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "SAM3FT_MICRO_BATCH_MAX", "SAM3FT_TOKEN", "PYTORCH_JIT")
    keep += ("PYTORCH_NVML_BASED_CUDA_CHECK",)
    starts.append(json.dumps({"pid": os.getpid(), "at": time.time(), **{name: os.environ.get(name) for name in keep}}))
    path.write_text("\n".join(starts))
    return len(starts)


def replace(path: Path, content: dict) -> None:
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def finish(code: int, message: str, micro_batch: int | None, step: int) -> None:
    word = {"code": code, "rank": RANK, "message": message, "micro_batch": micro_batch, "step": step}
    if code == 20:
        word["checkpoint_step"] = step
    replace(RESULT, word)
    sys.exit(code)


def until_flag(micro_batch: int | None) -> None:
    step = 0
    while not FLAG.exists():
        time.sleep(0.02)
        step += 1
    kind = json.loads(FLAG.read_text())["kind"]
    time.sleep(0.1)
    finish(20 if kind == "evict" else 26, f"saved for {kind}", micro_batch, step)


def trace() -> None:
    try:
        {}["the cause of it all"]
    except KeyError:
        traceback.print_exc()
        sys.stderr.flush()


def fail(text: str) -> None:
    raise RuntimeError(text)


def commit(step: int) -> None:
    replace(WORK / "progress.json", {"state": "training", "step": step, "checkpoint_step": step})


def spawn() -> None:
    child = subprocess.Popen(["sleep", "200"])
    (WORK / "spawned").write_text(str(child.pid))


ACTIONS = {
    "exit": lambda value, _: os._exit(int(value)),
    "result": lambda value, micro_batch: finish(int(value), f"told {value}", micro_batch, 7),
    "raise": lambda value, _: fail(value),
    "say": lambda value, _: print(value, flush=True),
    "kill": lambda value, _: os.kill(os.getpid(), int(value)),
    "sleep": lambda value, _: time.sleep(float(value)),
    "trace": lambda _, __: trace(),
    "deaf": lambda _, __: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "commit": lambda value, _: commit(int(value)),
    "spawn": lambda _, __: spawn(),
    "until-flag": lambda _, micro_batch: until_flag(micro_batch),
}


def main() -> None:
    scripts = sys.argv[1:]
    micro_batch = None
    for action in scripts[min(count_start(), len(scripts)) - 1].split(","):
        name, _, value = action.partition("=")
        if name == "mb":
            micro_batch = int(value)
        elif name != "only":
            ACTIONS[name](value, micro_batch)
        elif int(value) != RANK:
            until_flag(micro_batch)


if __name__ == "__main__":
    main()
