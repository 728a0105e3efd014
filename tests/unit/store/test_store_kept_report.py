"""What a report is made of, in the run's store."""

import json
from pathlib import Path

import pytest

from sam3ft_api.errors import StorageDenied, StorageUnavailable
from sam3ft_trainer.evaluate.report.build import CONFIG, DATASET, SCORES
from sam3ft_trainer.store import kept_report
from sam3ft_trainer.store.kept_report import PAGE, Keeping, read_events, read_report
from sam3ft_trainer.store.objects import Store


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text("of another run\n")
    return path


def add(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def names(store: Store) -> list[str]:
    return [info.key.rpartition("/")[2] for info in store.list_objects("report")]


def test_a_piece_grows_by_whole_lines_and_stands_once(folder_store: Store, log: Path):
    kept = Keeping(folder_store, log, 1, log.stat().st_size)
    kept.keep_log()
    assert [] == names(folder_store)
    add(log, "one\ntw")
    kept.keep_log()
    assert b"one\n" == read_events(folder_store)
    add(log, "o\n")
    kept.keep_log()
    kept.keep_log()

    assert b"one\ntwo\n" == read_events(folder_store)
    assert ["events-000000000000-000000000008.jsonl"] == names(folder_store)


def test_full_pieces_are_left_alone_and_a_long_line_is_whole(
    folder_store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept_report, "PIECE_BYTES", 10)
    kept = Keeping(folder_store, log, 1, log.stat().st_size)
    lines = [f"{'x' * length}\n" for length in (3, 25, 9, 4, 4)]
    for line in lines:
        add(log, line)
        kept.keep_log()
    add(log, "yyy\n" * 9)
    kept.keep_log()

    assert "".join(lines) + "yyy\n" * 9 == read_events(folder_store).decode()
    spans = sorted(tuple(map(int, name.removesuffix(".jsonl").split("-")[1:])) for name in names(folder_store))
    assert spans[0] == (0, 30)
    assert [begin for begin, _ in spans[1:]] == [end for _, end in spans[:-1]]


def test_incarnations_follow_each_other_wherever_they_ran(folder_store: Store, log: Path, tmp_path: Path):
    first = Keeping(folder_store, log, 2, log.stat().st_size)
    add(log, "a\n")
    first.keep_log()
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text("b\n")
    Keeping(folder_store, elsewhere, 10, 0).keep_log()
    add(log, "late words of a ghost\n")
    first.keep_log()
    folder_store.put("report/000003/events-000000000005-000000000009.jsonl", b"its beginning is gone\n")
    folder_store.put("report/000003/notes.txt", b"not ours")

    assert b"a\nlate words of a ghost\nb\n" == read_events(folder_store)


def test_the_longest_of_several_counts_where_a_deletion_was_lost(folder_store: Store):
    folder_store.put("report/000001/events-000000000000-000000000002.jsonl", b"a\n")
    folder_store.put("report/000001/events-000000000000-000000000004.jsonl", b"a\nb\n")

    assert b"a\nb\n" == read_events(folder_store)


def test_no_secret_is_kept_and_lines_stay_json(folder_store: Store, log: Path):
    kept = Keeping(folder_store, log, 1, log.stat().st_size)
    words = ["AWS_SECRET_ACCESS_KEY=abcdef0123456789", 'password="abcdef"', {"token": ["secret=abcdef"]}]
    for message in words:
        add(log, json.dumps({"event": "model_loaded", "message": message}) + "\n")
    add(log, "no JSON, password=abcdef\n")
    kept.keep_log()

    *lines, text = read_events(folder_store).splitlines()
    assert b"abcdef" not in read_events(folder_store)
    assert ["model_loaded"] * 3 == [json.loads(line)["event"] for line in lines]
    assert b"no JSON, password=***" == text


def test_a_line_without_an_end_waits_for_it_however_long_it_is(folder_store: Store, log: Path):
    kept = Keeping(folder_store, log, 1, log.stat().st_size)
    add(log, "x" * (2 * kept_report.PIECE_BYTES))
    kept.keep_log()
    assert b"" == read_events(folder_store)
    add(log, "\n")
    kept.keep_log()

    assert 2 * kept_report.PIECE_BYTES + 1 == len(read_events(folder_store))


def test_a_piece_that_is_replaced_while_it_is_read_is_read_again(
    folder_store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = Keeping(folder_store, log, 1, log.stat().st_size)
    add(log, "a\n")
    kept.keep_log()
    get, grown = folder_store.get, []

    def meanwhile(key: str) -> bytes:
        if len(grown) < limit:
            grown.append(key)
            add(log, "b\n")
            kept.keep_log()
        return get(key)

    monkeypatch.setattr(folder_store, "get", meanwhile)
    limit = 1
    assert b"a\nb\n" == read_events(folder_store)
    limit = 100
    with pytest.raises(StorageUnavailable, match="try again"):
        read_events(folder_store)


def test_the_newest_document_of_each_name_is_read(folder_store: Store, log: Path):
    assert (b"", {}, None) == _parts(folder_store)
    first, second = Keeping(folder_store, log, 1, 0), Keeping(folder_store, log, 2, 0)
    first.keep(CONFIG, b"1")
    first.keep(DATASET, b"1")
    second.keep(CONFIG, b"2")
    second.keep(SCORES, b"2")

    assert {CONFIG: b"2", DATASET: b"1", SCORES: b"2"} == read_report(folder_store).documents


def test_a_page_does_not_speak_for_a_run_that_went_on(folder_store: Store, log: Path):
    first, second = Keeping(folder_store, log, 1, 0), Keeping(folder_store, log, 2, 0)
    first.keep_log()
    first.keep(PAGE, b"<html>")
    assert b"<html>" == read_report(folder_store).page

    second.keep(CONFIG, b"{}")
    assert read_report(folder_store).page is None
    second.keep_log()
    assert read_report(folder_store).page is None


def test_a_store_in_which_nothing_may_be_deleted_keeps_the_shorter_pieces_too(
    folder_store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = Keeping(folder_store, log, 1, log.stat().st_size)
    monkeypatch.setattr(folder_store, "delete", lambda _: (_ for _ in ()).throw(StorageDenied("may not delete")))
    for line in ("a\n", "b\n"):
        add(log, line)
        kept.keep_log()

    assert 2 == len(names(folder_store))
    assert b"a\nb\n" == read_events(folder_store)


def _parts(store: Store) -> tuple[object, ...]:
    kept = read_report(store)
    return kept.events, kept.documents, kept.page


def test_what_could_not_be_kept_is_kept_by_the_next_call(
    folder_store: Store, log: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = Keeping(folder_store, log, 1, log.stat().st_size)
    add(log, "a\n")
    with monkeypatch.context() as patch:
        patch.setattr(folder_store, "put", lambda *_: (_ for _ in ()).throw(StorageUnavailable("no answer")))
        with pytest.raises(StorageUnavailable):
            kept.keep_log()
    add(log, "b\n")
    kept.keep_log()

    assert b"a\nb\n" == read_events(folder_store)
