"""A worker that writes down its environment and what it is, and ends when it is told to."""

import json
import os
import sys
import time
from pathlib import Path

place = os.environ["LOCAL_RANK"]
folder = Path(os.environ["SAM3FT_WORK_DIR"])
what = {
    "environment": dict(os.environ),
    "pid": os.getpid(),
    "argv": sys.argv[1:],
    "name": __name__,
    "is_warm": "sam3ft_trainer.run.train" in sys.modules,
    "input": str(Path("/proc/self/fd/0").readlink()),
    "output": str(Path("/proc/self/fd/1").readlink()),
}
written = folder / f"environment-{place}-{len(list(folder.glob('environment-*')))}.json"
written.with_suffix(".tmp").write_text(json.dumps(what))
written.with_suffix(".tmp").replace(written)
print("noted", flush=True)
flag = Path(os.environ["SAM3FT_FLAG_FILE"])
while not flag.exists():
    time.sleep(0.02)
result = {"code": 20, "rank": int(os.environ["RANK"]), "step": 1, "checkpoint_step": 1}
Path(os.environ["SAM3FT_RESULT_FILE"]).write_text(json.dumps(result))
os._exit(20)
