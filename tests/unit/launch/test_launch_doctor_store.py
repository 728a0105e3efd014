import json
from collections.abc import Callable
from typing import Any

import pytest

from sam3ft_launch.cli import doctor as doctor_verb
from sam3ft_launch.cli.app import main
from sam3ft_launch.cli.trainer import TrainerAnswer

FINDINGS = [
    {"name": "reach", "state": "yes", "detail": "TLSv1.3, verified", "needed": True},
    {"name": "delete", "state": "no", "detail": "can still be read", "needed": True},
    {"name": "damage on the way is refused", "state": "no", "detail": "accepted", "needed": False},
    {"name": "speed", "state": "untried", "detail": "what it rests on has failed", "needed": False},
]
SPEED = {
    "read_p50_ms": 1.25,
    "read_p99_ms": 9.0,
    "small_reads_per_s": 1234.5,
    "write_p50_ms": 2.0,
    "write_p99_ms": 3.0,
    "small_writes_per_s": 500.0,
    "read_mb_s": 250.4,
    "write_mb_s": 90.0,
}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Let the trainer answer with a document; gives what it was asked."""

    def prepare(code: int, /, **document: Any) -> list[list[str]]:
        asked: list[list[str]] = []

        def ask(words: list[str]) -> TrainerAnswer:
            asked.append(words)
            return TrainerAnswer(code, document, "")

        monkeypatch.setattr(doctor_verb, "ask_trainer", ask)
        return asked

    return prepare


def _found(*, usable: bool) -> dict[str, Any]:
    return {
        "address": "s3://runs/blood",
        "endpoint": "https://s3.lab.example",
        "profile": "lab",
        "usable": usable,
        "message": "" if usable else "delete: can still be read",
        "findings": FINDINGS,
        "speed": SPEED,
    }


def test_a_store_is_shown_as_a_table_with_the_verdict_last(
    answer: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str]
):
    asked = answer(13, **_found(usable=False))

    code = main(["doctor", "s3://runs/blood", "--profile", "lab"])

    lines = capsys.readouterr().out.splitlines()
    assert 13 == code
    assert [["doctor", "s3://runs/blood", "--profile", "lab"]] == asked
    assert "s3://runs/blood at https://s3.lab.example, profile lab" == lines[0]
    assert any(line.split() == ["reach", "yes", "TLSv1.3,", "verified"] for line in lines)
    assert any("damage on the way is refused (not needed)" in line for line in lines)
    assert any("1 properties rest on what has failed" in line for line in lines)
    assert any("1.2 ms median, 9.0 ms p99, 1,234 objects/s" in line for line in lines)
    assert any("250 MB/s" in line for line in lines)
    assert "NOT usable for checkpoints: delete: can still be read" == lines[-1]


def test_a_usable_store_ends_with_0(answer: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str]):
    answer(0, **_found(usable=True))

    assert 0 == main(["doctor", "s3://runs/blood"])
    assert "checkpoints can be kept there" == capsys.readouterr().out.splitlines()[-1]


def test_machines_get_one_line_of_json(answer: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str]):
    answer(13, **_found(usable=False))

    assert 13 == main(["doctor", "s3://runs/blood", "-o", "json"])
    (line,) = capsys.readouterr().out.splitlines()
    assert _found(usable=False) == json.loads(line)


def test_settings_that_are_wrong_end_with_the_trainers_code_and_words(
    answer: Callable[..., list[list[str]]], capsys: pytest.CaptureFixture[str]
):
    answer(10, code=10, reason="InvalidConfig", message="storage profile 'x' is not in the file")

    assert 10 == main(["doctor", "s3://runs/blood", "--profile", "x"])
    assert "storage profile 'x' is not in the file" in capsys.readouterr().err
