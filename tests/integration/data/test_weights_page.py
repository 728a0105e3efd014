"""The example of docs/weights.md works as it stands, but for the Hub: a folder stands for it, as the page allows."""

import json
import os
import subprocess
import sys
from pathlib import Path

from data_bench import SIDE, write_model
from s3_server import S3Server

from sam3ft_api.training import TrainingConfig
from sam3ft_api.worker import ENV_STORAGE_PROFILES
from sam3ft_trainer.run.model_place import model_headers

PAGE = Path(__file__).parents[3] / "docs" / "weights.md"


def test_the_model_is_in_the_bucket_and_can_be_trained_from_there(own_server: S3Server, tmp_path: Path) -> None:
    block = PAGE.read_text().split("<!-- executed by a test: weights -->\n")[1].split("\nCopied are")[0]
    folder = write_model(tmp_path / "nano", seed=1)
    own_server.create_bucket("models")
    environ = own_server.environment() | {
        ENV_STORAGE_PROFILES: str(own_server.profiles_file(tmp_path / "storage.yaml")),
        "SOURCE": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-eu", "-c", block],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert 0 == done.returncode, done.stderr
    assert 2 == done.stdout.count("train with it: model.uri: s3://models/sam3")
    manifest = json.loads((own_server.folder / "models" / "sam3" / "sam3ft-export.json").read_text())
    assert {path.name for path in folder.iterdir()} == set(manifest["files"])
    config = TrainingConfig.model_validate({"scratch": {"resolution": SIDE}})
    with model_headers("s3://models/sam3", config, environ) as place:
        assert "s3://models/sam3, 242 tensors" == place.inspect(config)[0]
