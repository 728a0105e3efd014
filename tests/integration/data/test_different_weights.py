"""Two nodes whose copies of the model differ: the run ends before its first step, and before anything is claimed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from data_bench import SIDE, make_document, write_model, write_split
from ports import free_port

from sam3ft_api.exit_codes import ExitCode


def test_ranks_that_have_loaded_different_weights_do_not_train(tmp_path: Path) -> None:
    write_split(tmp_path / "set" / "train", make_document(6))
    write_split(tmp_path / "set" / "valid", make_document(4))
    document = {
        "model": {"uri": "~/model"},
        "data": {"uri": str(tmp_path / "set")},
        "scratch": {"resolution": SIDE, "train_batch_size": 4, "precision": "fp32", "max_steps": 2},
        "checkpoint": {"uri": str(tmp_path / "checkpoint")},
        "evaluation": {"every_epochs": None, "baseline": False},
        "runtime": {"threads": 1, "micro_batch": 2, "tensorboard": False},
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    port, running = str(free_port()), []
    for rank in range(2):
        home = tmp_path / f"node-{rank}"
        (home / "work").mkdir(parents=True)
        write_model(home / "model", seed=rank)
        variables = {
            "HOME": str(home),
            "SAM3FT_CONFIG": str(tmp_path / "config.json"),
            "SAM3FT_WORK_DIR": str(home / "work"),
            "SAM3FT_RESULT_FILE": str(home / "result.json"),
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        words = [sys.executable, "-m", "sam3ft_trainer.run.worker"]
        running.append(
            subprocess.Popen(words, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
    said = [process.communicate(timeout=200)[1].decode() for process in running]

    assert [ExitCode.MODEL_UNUSABLE] * 2 == [process.returncode for process in running], said
    results = [json.loads((tmp_path / f"node-{rank}" / "result.json").read_text()) for rank in range(2)]
    assert results[0]["message"] == results[1]["message"]
    assert "the initial weights at ~/model are not the same for all: rank 0 has loaded" in results[0]["message"]
    assert not (tmp_path / "checkpoint" / "log").exists()
