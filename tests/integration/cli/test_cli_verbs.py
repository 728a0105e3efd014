"""The verbs that ask the trainer, and the process edge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_bench import Cli, json_lines

from sam3ft_api.exit_codes import ExitCode


def test_plan_shows_the_trainers_account_and_the_processes(cli: Cli):
    ended = cli("plan", "cells.yaml", "--nproc", "2")

    assert 0 == ended.returncode
    assert "trainer plan says hello" in ended.stdout
    assert "-m sam3ft_trainer.run.launcher" in ended.stdout
    assert "--nproc 2" in ended.stdout
    assert not (cli.folder / "runs").exists()


def test_plan_is_one_json_document_for_machines(cli: Cli):
    (document,) = json_lines(cli("plan", "cells.yaml", "-o", "json").stdout)

    assert "plan" == document["trainer"]["verb"]
    assert "cells" == document["plan"]["name"]
    assert document["plan"]["config"] == document["trainer"]["config"]


@pytest.mark.parametrize("verb", ["eval", "export"])
def test_words_of_the_trainer_are_handed_over(cli: Cli, verb: str):
    cli("run", "cells.yaml")

    ended = cli(verb, "cells", "--split", "test", "-o", "json")

    (document,) = json_lines(ended.stdout)
    config = str(cli.folder / "runs/cells/config.json")
    assert (verb, ["--config", config, "--split", "test", "-o", "json"]) == (document["verb"], document["words"])


def test_a_run_from_a_bucket_is_scored_with_the_cache_that_it_was_trained_with(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SAM3FT_CACHE_DIR", raising=False)  # tests keep out of the user's own cache otherwise
    cli.environment["XDG_CACHE_HOME"] = str(cli.folder / "cache")
    (cli.folder / "cells.yaml").write_text(
        (cli.folder / "cells.yaml").read_text().replace("preset:tiny", "s3://m/sam3")
    )
    cli("run", "cells.yaml")

    (document,) = json_lines(cli("eval", "cells", "-o", "json").stdout)
    assert str(cli.folder / "cache" / "sam3ft" / "node") == document["cache"]


def test_model_fetch_is_the_trainers(cli: Cli):
    ended = cli("model", "fetch", "hf://facebook/sam3", "weights", "--profile", "lab")

    words = "hf://facebook/sam3 weights --profile lab --data-profile default -o text"
    assert f"trainer fetch says hello: {words}" in ended.stdout


def test_train_runs_what_hydra_composes(cli: Cli):
    ended = cli("train", "data.uri=blood", "--run-dir", "r")

    assert 0 == ended.returncode
    assert "composed is complete" in ended.stdout
    config = json.loads((cli.folder / "r/config.json").read_text())
    assert "composed" == config["identity"]["name"]


def test_doctor_names_what_is_missing(cli: Cli):
    ended = cli("doctor", "-o", "json")

    (facts,) = json_lines(ended.stdout)
    assert ExitCode.INVALID_CONFIG == ended.returncode
    assert any("the trainer cannot be started" in problem for problem in facts["problems"])
    assert {"python", "cores", "memory_free_bytes", "disk_free_bytes", "device_nodes"} <= set(facts)


def test_version_is_said_in_both_forms(cli: Cli):
    text, document = cli("version").stdout, json_lines(cli("version", "-o", "json").stdout)[0]

    assert f"sam3ft {document['sam3ft']} (Python {document['python']})\n" == text


def test_without_the_trainers_libraries_the_message_says_what_to_install(cli: Cli, tmp_path: Path):
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'torch' else find(name, package)\n"
    )
    cli.environment["PYTHONPATH"] = os.pathsep.join([str(hide), cli.environment["PYTHONPATH"]])

    ended = cli("run", "cells.yaml")

    assert ExitCode.INVALID_CONFIG == ended.returncode
    assert "pip install 'sam3ft[trainer]'" in ended.stderr


@pytest.mark.parametrize(
    "words", [["status", "-n", "lab"], ["run", "f.yaml", "--backend", "kubernetes"], ["scale", "r", "--nodes", "2"]]
)
def test_without_the_client_of_kubernetes_a_cluster_is_refused_with_what_to_install(
    words: list[str], tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "sys.modules['kubernetes'] = None\n"  # as if it were not installed: importing it fails
        "from sam3ft_launch.cli.app import main\n"
        "sys.argv = ['sam3ft', *sys.argv[1:]]\n"
        "sys.exit(main())\n"
    )
    (tmp_path / "f.yaml").write_text("{}")
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )

    assert ExitCode.INVALID_CONFIG == ended.returncode, ended.stderr
    assert "the library kubernetes is not installed; install it with: pip install 'sam3ft[operator]'" in ended.stderr
