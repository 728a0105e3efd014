from pathlib import Path

from sam3ft_api.worker import Flag, FlagKind
from sam3ft_trainer.run.flags import FlagReader, seconds_left


def test_without_a_file_there_is_no_request(tmp_path: Path) -> None:
    assert FlagReader(tmp_path / "flag.json").poll() is None
    assert FlagReader(None).poll() is None


def test_a_request_is_read_with_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "flag.json"
    path.write_text(Flag(kind=FlagKind.REGROUP, deadline_unix_s=12.0).model_dump_json())

    flag = FlagReader(path).poll()

    assert flag == Flag(kind=FlagKind.REGROUP, deadline_unix_s=12.0)


def test_a_file_that_cannot_be_understood_means_save_and_stop(tmp_path: Path) -> None:
    path = tmp_path / "flag.json"
    path.write_text("{")

    assert FlagReader(path).poll() == Flag(kind=FlagKind.EVICT)


def test_seconds_left_is_never_negative() -> None:
    flag = Flag(kind=FlagKind.EVICT, deadline_unix_s=100.0)

    assert seconds_left(flag, now_unix_s=90.0) == 10.0
    assert seconds_left(flag, now_unix_s=110.0) == 0.0
    assert seconds_left(Flag(kind=FlagKind.EVICT)) is None
