"""The index of an annotation file: parsed by one process of the node, mapped by all, rebuilt when damaged."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3ft_api.errors import InvalidDataset
from sam3ft_trainer.data import annotations as annotations_module
from sam3ft_trainer.data import nodeindex
from sam3ft_trainer.data.annotations import LocalAnnotations, load_index
from sam3ft_trainer.data.figures import Figures, merged
from sam3ft_trainer.data.index import CocoIndex
from sam3ft_trainer.data.report import ProblemLog

Document = dict[str, Any]
Many = Callable[[int], Document]


def write(folder: Path, document: Document) -> LocalAnnotations:
    path = folder / "_annotations.coco.json"
    path.write_text(json.dumps(document))
    return LocalAnnotations(path)


def load(file: LocalAnnotations, cache: Path | None) -> tuple[CocoIndex, ProblemLog, Figures]:
    log, figures = ProblemLog(), Figures()
    return load_index(file, log, cache=cache, figures=figures), log, figures


def assert_same(one: CocoIndex, other: CocoIndex) -> None:
    for field in fields(CocoIndex):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            assert np.array_equal(a, b), field.name
        elif field.name != "segmentations":
            assert a == b, field.name
    for row in range(len(one.annotation_ids)):
        a, b = one.segmentations.get(row), other.segmentations.get(row)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.counts == b.counts
            assert [polygon.tolist() for polygon in a.polygons] == [polygon.tolist() for polygon in b.polygons]


def index_files(cache: Path) -> list[Path]:
    return sorted((cache / "index").glob(f"*.v{nodeindex.INDEX_VERSION}"))


@pytest.fixture
def rich(document: Document) -> Document:
    """Two images with a polygon, an RLE, phrases, a box partly outside, and names beyond ASCII."""
    document["images"][1]["file_name"] = "ü/\udc80 2.jpg".encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    document["annotations"][1]["noun_phrase"] = "a small dog"
    document["annotations"].append({"id": 9, "image_id": 2, "category_id": 2, "bbox": [50, 30, 30, 30]})
    return document


def test_a_mapped_index_is_the_parsed_one(rich: Document, tmp_path: Path) -> None:
    file = write(tmp_path, rich)

    parsed, parsed_log, _ = load(file, None)
    built, built_log, _ = load(file, tmp_path / "cache")
    mapped, mapped_log, _ = load(file, tmp_path / "cache")

    assert_same(parsed, built)
    assert_same(parsed, mapped)
    assert parsed_log.problems() == built_log.problems() == mapped_log.problems()
    assert ("box_partly_outside", 1) in [(problem.kind, problem.count) for problem in mapped_log.problems()]


def test_a_second_process_does_not_parse(rich: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, rich)
    first, _, _ = load(file, tmp_path / "cache")
    monkeypatch.setattr(annotations_module, "parse_coco", None)

    second, _, _ = load(file, tmp_path / "cache")

    assert first.digest == second.digest


def test_columns_are_mapped_read_only_and_not_copied(rich: Document, tmp_path: Path) -> None:
    index, _, _ = load(write(tmp_path, rich), tmp_path / "cache")
    (path,) = index_files(tmp_path / "cache")

    maps = Path("/proc/self/maps").read_text()

    assert str(path) in maps
    assert not index.boxes_m4.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        index.boxes_m4[0, 0] = 1.0


@pytest.mark.parametrize("place", [0, 10, 20, 40, 300, -1])
def test_a_flipped_byte_anywhere_has_the_index_built_anew(place: int, rich: Document, tmp_path: Path) -> None:
    file, cache = write(tmp_path, rich), tmp_path / "cache"
    parsed, _, _ = load(file, None)
    load(file, cache)
    (path,) = index_files(cache)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    path.write_bytes(damaged)

    again, _, _ = load(file, cache)

    assert_same(parsed, again)
    assert whole == path.read_bytes()


@pytest.mark.parametrize("kept", [0, 8, 30, 200, -1])
def test_an_index_that_was_cut_short_is_built_anew(kept: int, rich: Document, tmp_path: Path) -> None:
    file, cache = write(tmp_path, rich), tmp_path / "cache"
    parsed, _, _ = load(file, None)
    load(file, cache)
    (path,) = index_files(cache)
    path.write_bytes(path.read_bytes()[:kept])

    again, _, _ = load(file, cache)

    assert_same(parsed, again)


def test_an_index_of_another_version_is_left_alone_and_not_used(
    rich: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, cache = write(tmp_path, rich), tmp_path / "cache"
    load(file, cache)
    (older,) = index_files(cache)
    monkeypatch.setattr(nodeindex, "INDEX_VERSION", 77)
    monkeypatch.setattr(annotations_module, "INDEX_VERSION", 77)
    (cache / "index" / older.name.replace(".v1", ".v77")).write_bytes(older.read_bytes())

    load(file, cache)

    (newer,) = index_files(cache)
    assert older.exists()
    assert older.read_bytes() != newer.read_bytes()


def test_other_annotations_have_another_index(many_images: Many, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one, _, _ = load(write(tmp_path, many_images(3)), cache)
    two, _, _ = load(write(tmp_path, many_images(4)), cache)

    assert (3, 4) == (len(one.image_ids), len(two.image_ids))
    assert one.digest != two.digest
    assert 2 == len(index_files(cache))


def test_what_no_training_accepts_is_refused_each_time_and_not_kept(document: Document, tmp_path: Path) -> None:
    document["annotations"][0]["category_id"] = 99
    file, cache = write(tmp_path, document), tmp_path / "cache"

    for _ in range(2):
        with pytest.raises(InvalidDataset, match="annotation 1 belongs to category 99"):
            load(file, cache)

    assert [] == index_files(cache)


def test_a_folder_that_cannot_be_used_is_counted_and_every_process_parses(rich: Document, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    file = write(tmp_path, rich)

    parsed, _, _ = load(file, None)
    index, _, figures = load(file, tmp_path / "cache")

    assert_same(parsed, index)
    assert 1 == merged([figures.take()])["cache_failures"]


def test_what_killed_processes_left_is_removed_and_unused_indexes_go(many_images: Many, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(write(tmp_path, many_images(3)), cache)
    (old,) = index_files(cache)
    os.utime(old, (1_000_000, 1_000_000))
    file = write(tmp_path, many_images(4))
    digest = load(file, None)[0].digest
    left = cache / "index" / f"{digest}.v1.0123.tmp"
    left.write_bytes(b"half")

    load(file, cache)

    assert (False, False) == (old.exists(), left.exists())
    assert 1 == len(index_files(cache))


LOADER = """
    import sys
    from pathlib import Path
    from sam3ft_trainer.data import annotations
    from sam3ft_trainer.data.annotations import LocalAnnotations, load_index
    from sam3ft_trainer.data.figures import Figures
    from sam3ft_trainer.data.report import ProblemLog

    parse, times = annotations.parse_coco, []
    annotations.parse_coco = lambda *given, **named: times.append(1) or parse(*given, **named)
    print("ready", flush=True)
    sys.stdin.readline()
    index = load_index(LocalAnnotations(Path(sys.argv[1])), ProblemLog(), cache=Path(sys.argv[2]), figures=Figures())
    print(len(times), index.digest)
"""


def test_of_several_processes_at_once_one_parses_and_the_others_wait(many_images: Many, tmp_path: Path) -> None:
    write(tmp_path, many_images(3000))
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(LOADER),
        str(tmp_path / "_annotations.coco.json"),
        str(tmp_path / "cache"),
    ]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert ["ready\n"] * 4 == [process.stdout.readline() for process in processes if process.stdout is not None]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]

    assert [0, 0, 0, 1] == sorted(int(times) for times, _ in outputs)
    assert 1 == len({digest for _, digest in outputs})
