import argparse
import hashlib
import json
from pathlib import Path

import pytest
from obstore.store import LocalStore

from sam3ft_api.errors import InvalidConfig, ModelUnusable, StorageDenied, StorageUnavailable
from sam3ft_api.training import ModelConfig
from sam3ft_trainer.commands import fetch as verb
from sam3ft_trainer.export.folder import rounded_state, write_folder
from sam3ft_trainer.export.publish import MANIFEST, verify_folder, write_manifest
from sam3ft_trainer.model import hub
from sam3ft_trainer.model.load import load_model
from sam3ft_trainer.model.processor import build_processor
from sam3ft_trainer.run.fetch import choose_files, fetch_model, read_back
from sam3ft_trainer.store import uri
from sam3ft_trainer.store.objects import Store

WANTED = ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small published model, with what nobody should copy."""
    folder = tmp_path_factory.mktemp("published")
    loaded = load_model("preset:tiny-nano", ModelConfig(), resolution=28, device="cpu", seed=1)
    processor = build_processor(loaded.tokenizer, 28)
    write_folder(folder, loaded.sam3, processor, state=rounded_state(loaded.sam3, "float32"), dtype="float32")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"pytorch_model.bin": b"pickle", "sam3.pt": b"pickle", "modeling.py": b"code", "README.md": b"hi"}


@pytest.fixture
def source(published: dict[str, bytes], tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, data in published.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder behind `s3://weights/...`: a store without a folder of its own, as the trainer sees a bucket."""

    def opened(address: uri.Address, *_: object) -> Store:
        folder = tmp_path / address.bucket / address.path
        folder.mkdir(parents=True, exist_ok=True)
        return Store(LocalStore(folder), address=str(address))

    monkeypatch.setitem(uri.OPENERS, "s3", opened)
    return tmp_path / "weights"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_what_training_reads_is_copied_and_every_file_is_hashed(source: Path, tmp_path: Path):
    fetched = fetch_model(str(source), str(tmp_path / "copy"))

    assert sorted([*WANTED, MANIFEST]) == names(tmp_path / "copy")
    assert ("README.md", "modeling.py", "pytorch_model.bin", "sam3.pt") == fetched.left_out
    assert verify_folder(tmp_path / "copy")["files"] == fetched.files
    assert "242 tensors" == fetched.model
    load_model(str(tmp_path / "copy"), ModelConfig(), resolution=28, device="cpu", seed=0)


def test_weights_go_through_a_bucket_unchanged(source: Path, bucket: Path, tmp_path: Path):
    up = fetch_model(str(source), "s3://weights/sam3")
    down = fetch_model("s3://weights/sam3", str(tmp_path / "copy"))

    assert up.files == down.files
    assert (MANIFEST, "s3://weights/sam3") == (down.verified_by, down.source)
    assert (source / "model.safetensors").read_bytes() == (tmp_path / "copy" / "model.safetensors").read_bytes()


def test_a_damaged_copy_in_a_bucket_is_not_taken(source: Path, bucket: Path, tmp_path: Path):
    fetch_model(str(source), "s3://weights/sam3")
    damage(bucket / "sam3" / "tokenizer.json")

    with pytest.raises(ModelUnusable, match=r"missing or damaged \(tokenizer.json\)"):
        fetch_model("s3://weights/sam3", str(tmp_path / "copy"))

    assert not (tmp_path / "copy").exists()


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"~")


def test_a_copy_that_arrived_damaged_is_noticed(source: Path, tmp_path: Path):
    fetched = fetch_model(str(source), str(tmp_path / "copy"))
    damage(tmp_path / "copy" / "config.json")

    with pytest.raises(StorageUnavailable, match=r"config.json arrived damaged"):
        read_back(uri.parse_address(str(tmp_path / "copy")), fetched.files)


def test_pickled_weights_alone_are_refused(source: Path, tmp_path: Path):
    (source / "model.safetensors").unlink()

    with pytest.raises(ModelUnusable, match=r"only pickled weights \(pytorch_model.bin, sam3.pt\)"):
        fetch_model(str(source), str(tmp_path / "copy"))


def test_a_model_of_another_kind_is_refused(source: Path, tmp_path: Path):
    document = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(document | {"model_type": "clip"}))

    with pytest.raises(ModelUnusable, match="model_type 'clip'"):
        fetch_model(str(source), str(tmp_path / "copy"))


def test_safetensors_that_are_not_the_model_are_left_out(source: Path):
    (source / "other.safetensors").write_bytes(b"")
    index = {"weight_map": {"a": "model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    chosen, left_out = choose_files(source)

    assert sorted([*WANTED, "model.safetensors.index.json"]) == chosen
    assert "other.safetensors" in left_out


def test_an_earlier_copy_is_replaced(source: Path, tmp_path: Path):
    fetch_model(str(source), str(tmp_path / "copy"))
    (source / "LICENSE").write_text("terms")

    fetch_model(str(source), str(tmp_path / "copy"))

    assert "LICENSE" in names(tmp_path / "copy")


@pytest.mark.parametrize("is_export", [True, False])
def test_nothing_else_is_overwritten(source: Path, tmp_path: Path, *, is_export: bool):
    there = tmp_path / "mine"
    there.mkdir()
    (there / "model.safetensors").write_bytes(b"months of work")
    if is_export:
        write_manifest(there, {"facts": {}})

    with pytest.raises(StorageDenied, match="nothing is overwritten"):
        fetch_model(str(source), str(there))

    assert b"months of work" == (there / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("source_address", "destination", "message"),
    [
        ("preset:tiny", "copy", "has no files"),
        ("{source}", "hf://org/name", "cannot be written to"),
        ("{source}", "{source}", "the same folder"),
        ("ftp://host/model", "copy", "unknown kind"),
        ("hf://nonsense", "copy", "is no Hub address"),
    ],
)
def test_addresses_that_cannot_be_copied_are_refused(
    source: Path, tmp_path: Path, source_address: str, destination: str, message: str
):
    with pytest.raises(InvalidConfig, match=message):
        fetch_model(source_address.format(source=source), destination.format(source=source))


def test_a_bucket_without_a_model_says_what_it_holds(bucket: Path, tmp_path: Path):
    (bucket / "x").mkdir(parents=True)
    (bucket / "x" / "thesis.pdf").write_text("x")

    with pytest.raises(ModelUnusable, match=r"has no config.json; it holds thesis.pdf"):
        fetch_model("s3://weights/x", str(tmp_path / "copy"))


@pytest.fixture
def snapshot(published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot in the Hub's cache: links to blobs named by SHA-256, or git's SHA-1 for the small files."""
    folder, blobs = tmp_path / "models--o--n" / "snapshots" / ("a" * 40), tmp_path / "models--o--n" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for name in WANTED:
        data = published[name]
        large = name.endswith(".safetensors")
        digest = hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data)  # noqa: S324 - git's
        (blobs / digest.hexdigest()).write_bytes(data)
        (folder / name).symlink_to(blobs / digest.hexdigest())
    monkeypatch.setattr(hub, "fetch", lambda address: (folder, f"{address}@{'a' * 40}"))
    return folder


def test_a_snapshot_is_held_against_the_hubs_hashes(snapshot: Path, tmp_path: Path):
    fetched = fetch_model("hf://o/n", str(tmp_path / "copy"))

    assert ("the Hub's hashes", f"hf://o/n@{'a' * 40}") == (fetched.verified_by, fetched.source)
    assert all(not path.is_symlink() for path in (tmp_path / "copy").iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_snapshot_is_refused(snapshot: Path, tmp_path: Path, name: str):
    damage((snapshot / name).resolve())

    with pytest.raises(ModelUnusable, match=f"1 files in the Hub's cache differ from what the Hub has .{name}"):
        fetch_model("hf://o/n", str(tmp_path / "copy"))


def test_machines_read_one_document(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = {"source": str(source), "destination": str(tmp_path / "copy")}

    code = verb.run(argparse.Namespace(**words, output="json", profile="default", data_profile="default"))

    assert 0 == code
    document = json.loads(capsys.readouterr().out)
    assert words["destination"] == document["destination"]
    assert sum(entry["bytes"] for entry in document["files"].values()) == document["bytes"]


def test_people_read_what_lies_where(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = {
        "source": str(source),
        "destination": str(tmp_path / "copy"),
        "profile": "default",
        "data_profile": "default",
    }
    verb.run(argparse.Namespace(**words, output="text"))

    said = capsys.readouterr().out
    assert "left out, as training does not read them: README.md, modeling.py, pytorch_model.bin, sam3.pt" in said
    assert f"model.uri: {tmp_path / 'copy'}" in said
