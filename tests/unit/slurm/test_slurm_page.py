"""The examples of docs/slurm.md are what the programs take."""

from pathlib import Path

from sam3ft_api.spec import SAM3FineTuneSpec
from sam3ft_api.yaml import read_yaml
from sam3ft_launch.slurm.settings import SlurmSettings, read_settings

PAGE = Path(__file__).parents[3] / "docs/slurm.md"


def block(name: str) -> str:
    return PAGE.read_text().split(f"<!-- executed by a test: {name} -->\n```yaml\n")[1].split("```")[0]


def test_the_settings_are_read(tmp_path: Path):
    path = tmp_path / "slurm.yaml"
    path.write_text(block("settings"))

    settings = read_settings(path)

    assert ("university", "gres", "a100") == (settings.site, settings.gpus, settings.gpu_type)


def test_every_setting_is_on_the_page():
    assert [] == [
        name
        for name in SlurmSettings.model_fields
        if f"`{name}`" not in PAGE.read_text().replace(":", "`") and f"{name}:" not in PAGE.read_text()
    ]


def test_the_file_is_valid():
    spec = read_yaml(block("file"), name="page").data["spec"]
    more = {"model": {"uri": "preset:tiny"}, "data": {"uri": "s3://a/b"}, "checkpoint": {"uri": "s3://c/d"}}

    assert "12h" == SAM3FineTuneSpec.model_validate({**more, **spec}).slurm.time_limit
