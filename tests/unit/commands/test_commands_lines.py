"""The verbs that keep and print the log of a run on a SLURM site, as processes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def ask(*words: str, stdin: str = "") -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "sam3ft_trainer", *words, "-o", "json"]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, json.loads(done.stdout)


def test_several_logs_are_kept_at_once_and_one_that_fails_holds_up_no_other(tmp_path: Path):
    log, address = tmp_path / "run.log", str(tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    log.write_text("one\ntwo\n")
    good = {"log": str(log), "address": address, "profile": "default", "owner": "a", "start": 0}
    good |= {"look": True, "is_over": False}
    others = [good | {"log": str(tmp_path / "none")}, good | {"owner": "../b"}, good | {"profile": "nobody"}]

    code, document = ask("keep", stdin=json.dumps({"logs": [*others, good]}))

    assert (0, [0, 0, 0, 8]) == (code, [answer["end"] for answer in document["logs"]])
    assert [True, True, True, False] == [bool(answer["problem"]) for answer in document["logs"]]
    assert (0, {"lines": ["two"], "next": 8}) == ask("lines", address, "a", "--newest", "1")
    assert (0, {"lines": ["one", "two"], "next": 8}) == ask("lines", address, "a", "--start", "0")
    assert (0, {"lines": [], "next": 8}) == ask("lines", address, "a", "--start", "8")


def test_what_is_no_request_is_refused_in_words():
    code, document = ask("keep", stdin="[]")

    assert 10 == code
    assert "names no logs" in document["message"]
