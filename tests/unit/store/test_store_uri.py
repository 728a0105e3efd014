from pathlib import Path

import pytest

from sam3ft_api.errors import InvalidConfig, StorageDenied
from sam3ft_trainer.store.uri import OPENERS, Address, open_store, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/runs", Address("file", "", "/data/runs")),
        ("file:///data/my%20runs", Address("file", "", "/data/my runs")),
        ("s3://bucket/a/b/", Address("s3", "bucket", "a/b")),
        ("s3://bucket", Address("s3", "bucket", "")),
        ("gs://bucket/a", Address("gs", "bucket", "a")),
        ("az://container/a", Address("az", "container", "a")),
    ],
)
def test_each_kind_of_address_is_read(text: str, expected: Address):
    actual = parse_address(text)

    assert expected == actual
    assert expected == parse_address(str(actual))


def test_a_relative_path_counts_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    actual = parse_address("runs/blood")

    assert Address("file", "", str(tmp_path / "runs/blood")) == actual


def test_a_child_lies_below_its_parent():
    assert "s3://bucket/a/b" == str(parse_address("s3://bucket/a").child("b"))
    assert "s3://bucket/b" == str(parse_address("s3://bucket").child("b"))
    assert "/data/b/c" == str(parse_address("/data").child("b", "c"))


@pytest.mark.parametrize("text", ["ftp://host/x", "hf://org/model", "http://host/x", "s3:bucket"])
def test_an_unknown_kind_is_refused_with_the_allowed_ones(text: str):
    with pytest.raises(InvalidConfig) as refusal:
        parse_address(text)

    for allowed in OPENERS:
        assert f"{allowed}://" in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    ["s3://key:hunter2@bucket/x", "s3://key:hunter2/x@bucket", "s3://bucket/x?secret=hunter2", "ftp://u:hunter2@host"],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(text: str):
    with pytest.raises(InvalidConfig) as refusal:
        parse_address(text)

    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3://bucket/a/../b", "file://host/x"])
def test_an_address_that_names_no_place_is_refused(text: str):
    with pytest.raises(InvalidConfig):
        parse_address(text)


def test_a_missing_folder_is_made_only_on_request(tmp_path: Path):
    missing = tmp_path / "a" / "b"
    with pytest.raises(StorageDenied, match="does not exist"):
        open_store(str(missing))

    open_store(str(missing), create=True)

    assert missing.is_dir()


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageDenied, match="is not a folder"):
        open_store(str(tmp_path / "file"))
    with pytest.raises(StorageDenied, match="cannot be made"):
        open_store(str(tmp_path / "file" / "below"), create=True)


@pytest.mark.parametrize("text", ["s3://bucket/prefix", "gs://bucket", "az://container/p"])
def test_buckets_are_opened_from_the_environment_without_a_request(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")

    store = open_store(text)

    assert text == store.address
    assert store.folder is None
