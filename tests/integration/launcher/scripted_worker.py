"""A worker for tests of the launcher: does what its arguments say, without torch.

Arguments: actions separated by commas, one list per start of this rank; the last list serves all later starts.
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
    path = WORK / f"starts-{RANK}"
    starts = path.read_text().splitlines() if path.exists() else []
    keep = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "SAM3FT_MICRO_BATCH_MAX", "SAM3FT_TOKEN", "PYTORCH_JIT")
    starts.append(json.dumps({"pid": os.getpid(), **{name: os.environ.get(name) for name in keep}}))
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


def act(action: str, micro_batch: int | None) -> int | None:
    name, _, value = action.partition("=")
    match name:
        case "exit":
            os._exit(int(value))
        case "result":
            finish(int(value), f"told {value}", micro_batch, 7)
        case "raise":
            raise RuntimeError(value)
        case "say":
            print(value, flush=True)
        case "kill":
            os.kill(os.getpid(), int(value))
        case "sleep":
            time.sleep(float(value))
        case "trace":
            try:
                raise LookupError("the cause of it all")
            except LookupError:
                traceback.print_exc()
                sys.stderr.flush()
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "commit":
            replace(WORK / "progress.json", {"state": "training", "step": int(value), "checkpoint_step": int(value)})
        case "spawn":
            child = subprocess.Popen(["sleep", "60"])
            (WORK / "spawned").write_text(str(child.pid))
        case "until-flag":
            until_flag(micro_batch)
        case "mb":
            return int(value)
        case _:
            raise ValueError(f"no such action: {action}")
    return micro_batch


def main() -> None:
    scripts = sys.argv[1:]
    actions = scripts[min(count_start(), len(scripts)) - 1].split(",")
    micro_batch = None
    for action in actions:
        if action.startswith("only="):
            if RANK != int(action.removeprefix("only=")):
                until_flag(micro_batch)
            continue
        micro_batch = act(action, micro_batch)


if __name__ == "__main__":
    main()
