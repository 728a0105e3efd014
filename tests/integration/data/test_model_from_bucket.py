"""Initial weights that lie in a bucket: fetched once for all processes of a node, whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from data_bench import SIDE, Twin, write_model
from s3_server import S3Server

from sam3ft_api.errors import InvalidConfig, ModelUnusable, StorageDenied, StorageUnavailable
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.training import ModelConfig
from sam3ft_api.worker import ENV_CACHE_DIR
from sam3ft_faults.proxy import FaultProxy
from sam3ft_faults.rules import Rule
from sam3ft_trainer.model.load import load_model
from sam3ft_trainer.run import model_place
from sam3ft_trainer.run.fetch import fetch_model
from sam3ft_trainer.run.model_place import model_headers, place_model
from sam3ft_trainer.run.preflight import examine
from sam3ft_trainer.store.access import run_access

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "nano", seed=1)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """What counts the requests, and lets them through."""
    with FaultProxy(s3_server.endpoint) as standing:
        yield standing


@pytest.fixture
def both(s3_server: S3Server, s3_bucket: str, proxy: FaultProxy, folder: Path, tmp_path: Path) -> Twin:
    """A data set and the model in a bucket behind the proxy."""
    s3_server.upload_folder(s3_bucket, "models/nano", folder)
    return Twin(tmp_path, s3_server, s3_bucket, endpoint=proxy.endpoint, valid=True)


@pytest.fixture
def uri(both: Twin) -> str:
    return f"s3://{both.bucket}/models/nano"


def fetched(proxy: FaultProxy, name: str) -> int:
    """Count the requests for a file's content."""
    return sum(it["method"] == "GET" and it["target"].split("?")[0].endswith(name) for it in proxy.requests())


def test_it_is_fetched_once_and_loads_as_from_the_folder(
    both: Twin, uri: str, proxy: FaultProxy, folder: Path, tmp_path: Path
) -> None:
    config = both.config(scratch={"resolution": SIDE}, model={"uri": uri})
    environ = both.environ(**{ENV_CACHE_DIR: str(tmp_path / "cache")})
    told: list[tuple[int, int]] = []
    first = place_model(uri, config, environ, tell=lambda arrived, total: told.append((arrived, total)))
    again = place_model(uri, config, environ)

    loaded = again.load(config, device=CPU)
    size = (folder / "model.safetensors").stat().st_size
    assert (True, False, 1) == (first.is_fresh, again.is_fresh, fetched(proxy, "model.safetensors"))
    assert (size, size) == told[-1]
    assert uri == loaded.origin
    assert load_model(str(folder), ModelConfig(), resolution=SIDE, device="cpu", seed=0).digest == loaded.digest
    assert str(tmp_path / "cache" / "models") == str(Path(first.uri).parent)


def test_processes_of_a_node_share_one_fetch(both: Twin, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.rules(Rule(methods=("GET",), path="model.safetensors", delay_s=1.0))
    config = both.config(model={"uri": uri}).model_dump_json()
    code = (
        "import os, sys\n"
        "from sam3ft_api.training import TrainingConfig\n"
        "from sam3ft_trainer.run.model_place import place_model\n"
        "config = TrainingConfig.model_validate_json(sys.argv[1])\n"
        "print(place_model(config.model.uri, config, os.environ).is_fresh)\n"
    )
    environ = os.environ | both.environ(**{ENV_CACHE_DIR: str(tmp_path / "cache")})
    running = [
        subprocess.Popen([sys.executable, "-c", code, config], env=environ, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = sorted(process.communicate(timeout=120)[0].strip() for process in running)

    assert ["False", "False", "True"] == said
    assert 1 == fetched(proxy, "model.safetensors")


def test_a_damaged_copy_and_a_model_that_was_replaced_are_fetched_again(
    both: Twin, uri: str, proxy: FaultProxy, s3_server: S3Server, tmp_path: Path
) -> None:
    config = both.config(scratch={"resolution": SIDE})
    environ = both.environ(**{ENV_CACHE_DIR: str(tmp_path / "cache")})
    first = place_model(uri, config, environ)
    digest = first.load(config, device=CPU).digest
    weights = Path(first.uri) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    mended = place_model(uri, config, environ)
    assert (True, first.uri, digest) == (mended.is_fresh, mended.uri, mended.load(config, device=CPU).digest)
    s3_server.upload_folder(both.bucket, "models/nano", write_model(tmp_path / "other", seed=2))
    other = place_model(uri, config, environ)
    assert other.is_fresh
    assert digest != other.load(config, device=CPU).digest
    assert 3 == fetched(proxy, "model.safetensors")


def test_a_copy_in_use_stays_and_an_unused_one_gives_way(
    both: Twin, uri: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = both.config()
    environ = both.environ(**{ENV_CACHE_DIR: str(tmp_path / "cache")})
    used = place_model(uri, config, environ)
    unused = place_model(copy_of(both, s3_server, tmp_path, "second"), config, environ)
    third = copy_of(both, s3_server, tmp_path, "third")
    gone = Path(unused.uri)
    assert unused.use is not None
    os.close(unused.use)
    # A disk that is full as long as both copies are there.
    full = lambda _: type("Usage", (), {"free": 0 if gone.exists() else 1 << 40})()  # noqa: E731
    monkeypatch.setattr(model_place.shutil, "disk_usage", full)

    place_model(third, config, environ)
    assert (True, False) == (Path(used.uri).exists(), gone.exists())


def copy_of(both: Twin, server: S3Server, tmp_path: Path, name: str) -> str:
    """Upload another model, and return its address."""
    server.upload_folder(both.bucket, f"models/{name}", write_model(tmp_path / name, seed=len(name)))
    return f"s3://{both.bucket}/models/{name}"


def test_without_room_it_says_how_much_is_missing(
    both: Twin, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_place.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageDenied, match=r"the model has [\d,]+ bytes and 1,000 are free.*SAM3FT_CACHE_DIR"):
        place_model(uri, both.config(), both.environ(**{ENV_CACHE_DIR: str(tmp_path / "cache")}))
    assert [] == [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


def test_the_check_reads_headers_alone_and_speaks_of_the_bucket(
    both: Twin, uri: str, proxy: FaultProxy, folder: Path
) -> None:
    config = both.config(scratch={"resolution": SIDE}, model={"uri": uri})
    before = proxy.totals().get("answer_bytes", 0)
    with model_headers(uri, config, both.environ()) as place:
        line, architecture = place.inspect(config)
        assert Path(place.uri).stat().st_size
    read = proxy.totals()["answer_bytes"] - before

    assert f"{uri}, 242 tensors" == line
    assert SIDE == architecture.vision_config.backbone_config.image_size
    assert read < 0.5 * (folder / "model.safetensors").stat().st_size
    assert not Path(place.uri).exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "has no config.json; it holds model.safetensors"),
        ("model.safetensors", b"~" * 100, "model.safetensors is not a readable safetensors file"),
    ],
)
def test_what_is_no_model_is_refused_by_the_check(
    both: Twin,
    s3_server: S3Server,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_bytes(content)
    s3_server.upload_folder(both.bucket, "models/broken", broken)
    for variable, value in both.environ().items():
        monkeypatch.setenv(variable, value)
    uri = f"s3://{both.bucket}/models/broken"
    config = both.config(scratch={"resolution": SIDE}, model={"uri": uri})

    with pytest.raises(ModelUnusable, match=message) as refused:
        examine(config, processes=1, access=both.access(config))
    assert str(refused.value).startswith(uri)


def test_bytes_that_differ_from_the_manifest_are_refused(
    both: Twin, s3_server: S3Server, folder: Path, tmp_path: Path
) -> None:
    environ = both.environ(**{ENV_CACHE_DIR: str(tmp_path / "cache")})
    config = both.config()
    uri = f"s3://{both.bucket}/models/fetched"
    fetch_model(str(folder), uri, writing=run_access(config.storage, environ))
    assert place_model(uri, config, environ).is_fresh
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b" ")
    s3_server.upload_folder(both.bucket, "models/fetched", changed)

    with pytest.raises(ModelUnusable, match=rf"{uri}: 1 files are missing or damaged \(tokenizer.json\)"):
        place_model(uri, config, environ)


def test_a_model_that_is_replaced_while_it_is_read_is_not_taken(
    both: Twin, uri: str, proxy: FaultProxy, s3_server: S3Server, tmp_path: Path
) -> None:
    """Other weights of the same architecture have the same size: the list alone shows that they are others."""
    proxy.rules(Rule(methods=("GET",), path="model.safetensors", delay_s=2.0))
    other = write_model(tmp_path / "other", seed=2)
    config, cache = both.config(), tmp_path / "cache"
    environ = both.environ(**{ENV_CACHE_DIR: str(cache)})
    with ThreadPoolExecutor(1) as threads:
        fetching = threads.submit(place_model, uri, config, environ)
        give_up_at = time.monotonic() + 30
        while not fetched(proxy, "model.safetensors"):
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        s3_server.upload_folder(both.bucket, "models/nano", other)
        with pytest.raises(StorageUnavailable, match=r"model.safetensors.* changed while the model was read"):
            fetching.result(60)
    assert [] == [path for path in (cache / "models").iterdir() if path.is_dir()]


def test_what_a_killed_fetch_has_left_is_removed_by_the_next_one_of_any_model(
    both: Twin, uri: str, tmp_path: Path
) -> None:
    left = tmp_path / "cache" / "models" / f"{'0' * 24}.abc.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    place_model(uri, both.config(), both.environ(**{ENV_CACHE_DIR: str(tmp_path / "cache")}))
    assert not left.exists()


def test_an_index_that_leads_out_of_the_folder_is_refused(
    both: Twin, s3_server: S3Server, folder: Path, tmp_path: Path
) -> None:
    hostile = Path(shutil.copytree(folder, tmp_path / "hostile"))
    (hostile / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../secret.safetensors", "b": ["x"], "c": "model.safetensors"}})
    )
    s3_server.upload_folder(both.bucket, "models/hostile", hostile)
    config = both.config(scratch={"resolution": SIDE})
    hostile_uri = f"s3://{both.bucket}/models/hostile"
    with (
        model_headers(hostile_uri, config, both.environ()) as place,
        pytest.raises(ModelUnusable, match=r"names 3 weight files, 2 are missing"),
    ):
        place.inspect(config)


def test_an_address_of_an_unknown_kind_is_refused(both: Twin) -> None:
    with pytest.raises(InvalidConfig, match="unknown kind 'ftp'"):
        place_model("ftp://host/model", both.config(), both.environ())


@pytest.mark.parametrize(
    "freeze",
    [pytest.param([], id="all trained", marks=pytest.mark.soak), pytest.param(["text"], id="text frozen")],
)
def test_a_run_has_the_weights_and_the_export_of_one_from_the_folder(
    both: Twin, uri: str, folder: Path, tmp_path: Path, freeze: list[str]
) -> None:
    here = run_with(both, tmp_path / "here", str(folder), freeze)
    there = run_with(both, tmp_path / "there", uri, freeze)

    assert here["losses"] == there["losses"] != []
    assert here["export"] == there["export"]
    assert uri == there["origin"]


def run_with(both: Twin, work_dir: Path, uri: str, freeze: list[str]) -> dict[str, Any]:
    """Train two steps with a worker of its own; returns what it left."""
    work_dir.mkdir()
    document = {
        "model": {"uri": uri, "freeze": freeze},
        "data": {"uri": both.uri},
        "scratch": {"resolution": SIDE, "train_batch_size": 4, "precision": "fp32", "max_steps": 2},
        "checkpoint": {"uri": str(work_dir / "checkpoint")},
        "export": {"uri": str(work_dir / "model")},
        "evaluation": {"every_epochs": None, "baseline": False},
        "runtime": {"threads": 1, "micro_batch": 2, "tensorboard": False, "log_every": 1, "outage_s": 20},
    }
    (work_dir / "config.json").write_text(json.dumps(document))
    variables = {"SAM3FT_CONFIG": str(work_dir / "config.json"), "SAM3FT_WORK_DIR": str(work_dir)}
    ended = subprocess.run(
        [sys.executable, "-m", "sam3ft_trainer.run.worker"],
        env=os.environ | both.environ() | variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ExitCode.SUCCEEDED == ended.returncode, ended.stderr[-3000:]
    events = [json.loads(line) for line in (work_dir / "events.jsonl").read_text().splitlines()]
    manifest = json.loads((work_dir / "model" / "sam3ft-export.json").read_text())
    return {
        "losses": [event["loss"] for event in events if event["event"] == "train_interval"],
        "origin": next(event["origin"] for event in events if event["event"] == "model_loaded"),
        "export": manifest["files"]["model.safetensors"],
    }
