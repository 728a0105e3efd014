from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.commands.doctor_store import document, inspect_store, lines
from sam3ft_trainer.store import survey as surveys
from sam3ft_trainer.store.access import Access
from sam3ft_trainer.store.objects import ObjectInfo, Store
from sam3ft_trainer.store.survey import State, Survey, survey


class _Honest(Store):
    """A store in memory, which every other one here resembles but for one lie."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), address="s3://bucket/x")


class _Overwriting(_Honest):
    def put_if_absent(self, key: str, data: bytes) -> None:
        self.put(key, data)


class _OpenToRaces(_Honest):
    def put_if_absent(self, key: str, data: bytes) -> None:
        if "/race/" not in key:
            super().put_if_absent(key, data)


class _OverwritingAndRefusing(_Honest):
    def put_if_absent(self, key: str, data: bytes) -> None:
        try:
            super().put_if_absent(key, data)
        except Exception:
            self.put(key, data)
            raise


class _Late(_Honest):
    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        return [info for info in super().list_objects(prefix) if not info.key.endswith("/007")]


class _Early(_Honest):
    """Shows a part of what is being written."""

    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        if not isinstance(data, Path) and len(data) == surveys.LARGE_BYTES:
            super().put(key, bytes(data)[:1000])
            seen = self.seen = []
            while not seen:
                pass
        super().put(key, data)

    def head(self, key: str) -> ObjectInfo:
        found = super().head(key)
        if found.size == 1000:
            self.seen.append(found.size)
        return found


class _Spoiling(_Honest):
    def get(self, key: str) -> bytes:
        return super().get(key).replace(b"f", b"F")


class _Stale(_Honest):
    def get(self, key: str) -> bytes:
        return b"first" if key.endswith("/small") else super().get(key)


class _Ranging(_Honest):
    def get_range(self, key: str, start: int, length: int) -> memoryview:
        return super().get_range(key, 0, start + length)


class _Keeping(_Honest):
    def delete(self, keys: object) -> None:
        """Say yes and do nothing."""


class _ReadOnly(_Honest):
    def put(self, key: str, _data: object) -> None:
        raise StorageDenied(f"{self.address}, object {key!r}: access refused (status 403 AccessDenied)")


class _Silent(_Honest):
    def list_objects(self, prefix: str) -> list[ObjectInfo]:
        raise StorageUnavailable(f"{self.address}, object {prefix!r}: no answer in time (kind: Timeout)")


@pytest.fixture(autouse=True)
def _in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys, "LARGE_BYTES", 1 << 20)
    monkeypatch.setattr(surveys, "TIMED", 4)


@pytest.fixture
def survey_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Store], Survey]:
    def ask(store: Store) -> Survey:
        monkeypatch.setattr(surveys, "open_store", lambda *_args, **_kwargs: store)
        return survey("s3://bucket/x", Access())

    return ask


def test_an_honest_store_has_everything(survey_of: Callable[[Store], Survey]):
    store = _Honest()

    found = survey_of(store)

    assert ([], "") == (found.missing, found.reason)
    assert [] == store.list_objects("")
    assert {"read_mb_s", "write_mb_s", "read_p50_ms", "read_p99_ms", "write_p50_ms", "write_p99_ms"} <= set(found.speed)


@pytest.mark.parametrize(
    ("store", "name", "words"),
    [
        (_Overwriting, "second creation refused", "a second creation succeeds"),
        (_OverwritingAndRefusing, "second creation refused", "the bytes have changed"),
        (_OpenToRaces, "one winner of a race", "had 16, 16, 16, 16 winners"),
        (_Late, "list after write", "19 of 20 listed"),
        (_Early, "nothing of it visible before its end", "seen with 1,000 bytes"),
        (_Spoiling, "write and read", "other bytes came back"),
        (_Stale, "overwrite", "the old bytes come back"),
        (_Ranging, "read a range", "4 bytes came for 3"),
        (_Keeping, "delete", "can still be read"),
        (_ReadOnly, "write and read", "access refused (status 403 AccessDenied)"),
        (_Silent, "reach", "no answer in time"),
    ],
)
def test_every_lie_is_found_and_is_the_reason(
    survey_of: Callable[[Store], Survey], store: Callable[[], Store], name: str, words: str
):
    found = survey_of(store())

    (finding,) = [finding for finding in found.findings if finding.name == name]
    assert State.NO is finding.state
    assert words in finding.detail
    assert f"{name}: {finding.detail}" in found.reason


def test_what_rests_on_a_failure_is_not_tried(survey_of: Callable[[Store], Survey]):
    found = survey_of(_Silent())

    assert {State.UNTRIED} == {finding.state for finding in found.findings[1:]}


def test_what_cannot_be_deleted_is_said(survey_of: Callable[[Store], Survey]):
    found = survey_of(_Keeping())

    assert "nothing left behind" == found.findings[-1].name
    assert "could not be deleted; delete them" in found.findings[-1].detail


def test_a_folder_that_was_made_for_the_trial_is_removed_again(tmp_path: Path):
    (tmp_path / "mine").write_text("x")

    found = survey(str(tmp_path / "new" / "place"), Access())

    assert [] == found.missing
    assert [tmp_path / "mine"] == list(tmp_path.iterdir())


def test_a_folder_that_was_there_stays(tmp_path: Path):
    (tmp_path / "there").mkdir()

    survey(str(tmp_path / "there"), Access())

    assert (tmp_path / "there").is_dir()


def test_the_account_names_what_is_lacking(survey_of: Callable[[Store], Survey]):
    found = survey_of(_Overwriting())

    said = document(found, profile="lab")

    assert ("s3://bucket/x", "lab", False) == (said["address"], said["profile"], said["usable"])
    assert "second creation refused: a second creation succeeds" in said["message"]
    assert "no" == next(row["state"] for row in said["findings"] if row["name"] == "second creation refused")
    assert lines(found)[-1] == f"NOT usable for checkpoints: {found.reason}"


@pytest.mark.parametrize(("folder", "code"), [("new", 0), ("file/below", 13)])
def test_the_exit_code_says_whether_checkpoints_can_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, code: int
):
    (tmp_path / "file").write_text("")

    assert code == inspect_store(str(tmp_path / folder), profile="default", output="text")
    assert ("checkpoints can be kept there" if code == 0 else "NOT usable") in capsys.readouterr().out
