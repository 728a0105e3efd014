"""A worker process that trains a tiny model and stores its run in a bucket; what it was told and what it says."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ports import free_port
from store_bench import Site

from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import Flag, FlagKind

CELLS = Path(__file__).parents[2] / "examples" / "blood-cells" / "train"


def make_data(folder: Path, *, images: int = 6) -> Path:
    """Six images of the example in train, the same in valid."""
    document = json.loads((CELLS / "_annotations.coco.json").read_text())
    document["images"] = document["images"][:images]
    kept = {image["id"] for image in document["images"]}
    document["annotations"] = [item for item in document["annotations"] if item["image_id"] in kept]
    for split in ("train", "valid"):
        (folder / split).mkdir(parents=True)
        for image in document["images"]:
            shutil.copy(CELLS / image["file_name"], folder / split)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(document))
    return folder


def config_of(site: Site, data: Path, **sections: dict[str, Any]) -> TrainingConfig:
    """Return the settings of a quick run; sections are merged over them."""
    document: dict[str, dict[str, Any]] = {
        "model": {"uri": "preset:tiny-nano"},
        "data": {"uri": str(data)},
        "scratch": {"resolution": 28, "train_batch_size": 2, "precision": "fp32", "max_steps": 12},
        "checkpoint": {"uri": site.address, "every_steps": 4, "every_seconds": None, "keep_best": 0},
        "evaluation": {"every_epochs": None, "baseline": False},
        "runtime": {"threads": 1, "micro_batch": 1, "tensorboard": False, "log_every": 1, "outage_s": 20},
        "export": {"uri": None},
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return TrainingConfig.model_validate(document)


class Workers:
    """The workers of one attempt."""

    def __init__(
        self, config: TrainingConfig, site: Site, work_dir: Path, *, world_size: int = 1, **environ: str
    ) -> None:
        """Start them."""
        self.work_dir = work_dir
        work_dir.mkdir(parents=True, exist_ok=True)
        (work_dir / "config.json").write_text(config.model_dump_json())
        self.flag_file = work_dir / "flag.json"
        self.flag_file.unlink(missing_ok=True)
        (work_dir / "logs").mkdir(exist_ok=True)
        port = str(free_port())
        self.processes = []
        for rank in range(world_size):
            self.result_file(rank).unlink(missing_ok=True)
            self.training_file(rank).unlink(missing_ok=True)
            variables = {
                "SAM3FT_CONFIG": str(work_dir / "config.json"),
                "SAM3FT_WORK_DIR": str(work_dir),
                "SAM3FT_FLAG_FILE": str(self.flag_file),
                "SAM3FT_RESULT_FILE": str(self.result_file(rank)),
                "SAM3FT_TRAINING_FILE": str(self.training_file(rank)),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            }
            with (work_dir / "logs" / f"rank-{rank}.log").open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "sam3ft_trainer.run.worker"],
                        env=os.environ | site.environ | variables | environ,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def result_file(self, rank: int) -> Path:
        """Where a rank leaves its last word."""
        return self.work_dir / f"result-{rank}.json"

    def training_file(self, rank: int) -> Path:
        """What a rank makes when it has finished a step."""
        return self.work_dir / f"training-{rank}"

    def result(self, rank: int = 0) -> dict[str, Any]:
        """Return the last word of a rank."""
        return json.loads(self.result_file(rank).read_text())

    def log(self, rank: int = 0) -> str:
        """Return the output of a rank."""
        return (self.work_dir / "logs" / f"rank-{rank}.log").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name, of all attempts in this work folder."""
        path = self.work_dir / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def wait(self, timeout_s: float = 240.0) -> list[int]:
        """Wait for the ends; returns exit codes by rank."""
        deadline = time.monotonic() + timeout_s
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 240.0) -> None:
        """Wait until something holds while the workers run."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            ended = [rank for rank, process in enumerate(self.processes) if process.poll() is not None]
            assert [] == ended, f"{self.log(ended[0])[-2000:]}\n{self.log()[-2000:]}"
            assert time.monotonic() < deadline, self.log()[-4000:]
            time.sleep(0.02)

    def evict(self, *, in_s: float | None) -> None:
        """Ask for the end within some seconds."""
        deadline = None if in_s is None else time.time() + in_s
        part = self.flag_file.with_suffix(".part")
        part.write_text(Flag(kind=FlagKind.EVICT, deadline_unix_s=deadline).model_dump_json())
        part.replace(self.flag_file)

    def kill(self) -> None:
        """End whoever still lives."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
