"""The example of docs/data.md that reads from a bucket works as it stands."""

import os
import subprocess
import sys
from pathlib import Path

from s3_server import S3Server

from sam3ft_api.worker import ENV_CACHE_DIR, ENV_STORAGE_PROFILES

ROOT = Path(__file__).parents[3]


def test_the_example_of_the_guide_checks_a_data_set_in_a_bucket(own_server: S3Server, tmp_path: Path) -> None:
    section = (ROOT / "docs" / "data.md").read_text().split("\n## From a bucket\n")[1]
    code = section.split("```python\n")[1].split("```", maxsplit=1)[0]
    own_server.upload_folder(own_server.create_bucket("datasets"), "blood-cells", ROOT / "examples" / "blood-cells")
    environ = own_server.environment() | {
        ENV_STORAGE_PROFILES: str(own_server.profiles_file(tmp_path / "storage.yaml")),
        ENV_CACHE_DIR: str(tmp_path / "cache"),
    }

    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environ, capture_output=True, text=True, timeout=100, check=False
    )

    assert 0 == done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert "train 189 images from s3://datasets/blood-cells/train/_annotations.coco.json" == lines[0]
    assert lines[3].startswith("data: 240 fetched (")
    assert f"'folder': '{tmp_path / 'cache'}'" in lines[4]
