"""`train`: compose a config document and train in this process, without a launcher."""

import argparse
import json
import os
import sys
from pathlib import Path

from sam3ft_api import worker as contract
from sam3ft_api.files import write_atomically
from sam3ft_trainer.conf.compose import compose_config
from sam3ft_trainer.run import worker


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument(
        "--work-dir", type=Path, default=Path("runs/train"), help="folder for logs, progress and report"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, such as data.uri=FOLDER scratch.resolution=504")


def run(arguments: argparse.Namespace) -> int:
    """Write the config document into the work folder and become its only worker; returns the worker's exit code."""
    config = compose_config(arguments.overrides)
    work_dir: Path = arguments.work_dir.absolute()
    work_dir.mkdir(parents=True, exist_ok=True)
    if config.checkpoint.uri is None:
        document = config.model_dump(mode="json")
        document["checkpoint"]["uri"] = str(work_dir / "checkpoints")
        text = json.dumps(document, indent=2)
    else:
        text = config.model_dump_json(indent=2)
    write_atomically(work_dir / "config.json", text)
    os.environ[contract.ENV_CONFIG] = str(work_dir / "config.json")
    os.environ[contract.ENV_WORK_DIR] = str(work_dir)
    sys.stdout.write(f"work folder: {work_dir}\n")
    sys.stdout.flush()
    return worker.main()
