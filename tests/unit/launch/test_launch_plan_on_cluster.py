"""`sam3ft plan --backend kubernetes`: every object, without a cluster, and the page that explains them."""

import json
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sam3ft_api.plan import JobPlan
from sam3ft_launch.cli.app import main

PAGE = Path(__file__).parents[3] / "docs/kubernetes-objects.md"


def block(name: str) -> str:
    """Return the block of the page that stands below its mark."""
    found = re.search(rf"<!-- executed by a test: {name} -->\n\n((?:    .*\n|\n)+)", PAGE.read_text())
    assert found is not None
    return textwrap.dedent(found[1]).strip() + "\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "finetune.yaml").write_text(block("resource"))
    (tmp_path / "workers.yaml").write_text(block("worker profiles"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words() -> list[str]:
    """Return the command of the page without its filter."""
    command = block("command").split("|")[0]
    assert command.startswith("sam3ft ")
    return shlex.split(command)[1:]


def test_the_command_of_the_page_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]):
    assert 0 == main(words())

    documents = list(YAML(typ="safe", pure=True).load_all(capsys.readouterr().out))
    listed = [f"{thing['kind']} {thing['metadata']['name']}" for thing in documents]
    assert block("objects").splitlines() == listed


def test_machines_get_the_plan_and_the_objects_in_one_line(capsys: pytest.CaptureFixture[str]):
    assert 0 == main([*words(), "-o", "json", "--set", "workers.nodes=2"])

    document = json.loads(capsys.readouterr().out)
    assert {"plan", "objects"} == document.keys()
    assert 2 == JobPlan.model_validate(document["plan"]).nodes
    assert [2] == [
        thing["spec"]["completions"] for thing in document["objects"] if "completions" in thing.get("spec", {})
    ]


def test_the_file_of_the_user_is_kept_with_its_comments_and_changes(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "finetune.yaml").write_text("# mine\n" + block("resource"))

    assert 0 == main([*words(), "--set", "training.seed=7"])

    first = next(iter(YAML(typ="safe", pure=True).load_all(capsys.readouterr().out)))
    assert first["data"]["finetune.yaml"].startswith("# --set training.seed=7\n# mine\n")
    assert 7 == json.loads(first["data"]["config.json"])["scratch"]["seed_value"]


def test_nothing_is_written(folder: Path):
    before = sorted(folder.rglob("*"))

    main(words())

    assert before == sorted(folder.rglob("*"))
