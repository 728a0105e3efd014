"""`sam3ft run` from the first word to the last, with a launcher that follows a script."""

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from cli_bench import Cli, json_lines

from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.local.process import is_alive


def wait_until(holds: Callable[[], object], timeout_s: float = 30.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.05)


def started(cli: Cli, *words: str, script: str = "wait") -> "subprocess.Popen[str]":
    process = cli.start("run", "cells.yaml", *words, script=script)
    wait_until((cli.folder / "runs/cells/work/progress.json").exists)
    return process


def test_a_run_that_ends_well_says_where_things_are(cli: Cli):
    ended = cli("run", "cells.yaml")

    assert (0, "") == (ended.returncode, ended.stderr)
    assert f"cells: 1 process on this machine, folder {cli.folder}/runs/cells" in ended.stdout
    assert "trainer check says hello" in ended.stdout
    assert "cells is complete" in ended.stdout
    assert f"{cli.folder}/runs/cells/work/run.log" in ended.stdout


def test_the_run_folder_holds_the_file_and_the_document(cli: Cli):
    ended = cli("run", "cells.yaml", "--set", "training.epochs=9", "--run-dir", "elsewhere", "--nproc", "2")

    assert "--nproc 2" in ended.stdout
    assert '{"train": {"images": 3}}' == (cli.folder / "elsewhere/work/dataset.json").read_text()
    assert "# --set training.epochs=9\n" in (cli.folder / "elsewhere/finetune.yaml").read_text()
    assert f'"uri": "{cli.folder}/elsewhere/checkpoints"' in (cli.folder / "elsewhere/config.json").read_text()


def test_machines_read_json_lines(cli: Cli):
    ended = cli("run", "cells.yaml", "-o", "json", script="end:0")

    events = json_lines(ended.stdout)
    assert ["planned", "checked", "ended"] == [event["event"] for event in events]
    assert (0, "Succeeded") == (events[-1]["code"], events[-1]["reason"])
    assert f"{cli.folder}/runs/cells" == events[-1]["places"]["folder"]


@pytest.mark.parametrize("code", [10, 11, 12, 13, 14, 15, 16])
def test_what_the_check_refuses_is_never_started(cli: Cli, code: int):
    ended = cli("run", "cells.yaml", FAKE_CODE=str(code))

    assert code == ended.returncode
    assert "image 7.jpg is missing" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (cli.folder / "runs").exists()


def test_a_refusal_is_one_json_line_for_machines(cli: Cli):
    ended = cli("run", "cells.yaml", "-o", "json", FAKE_CODE="11")

    last = json_lines(ended.stdout)[-1]
    assert ("error", 11, "InvalidDataset", "image 7.jpg is missing") == tuple(last.values())
    assert ExitCode.INVALID_DATASET == ended.returncode


def test_the_users_error_of_a_run_is_its_exit_code(cli: Cli):
    ended = cli("run", "cells.yaml", script="end:15")

    assert ExitCode.NON_FINITE_LOSS == ended.returncode
    assert "cells ended with NonFiniteLoss (code 15): the script said 15" in ended.stdout
    assert "Lower the learning rate" in ended.stdout


def test_ctrl_c_saves_and_ends_with_20_and_the_same_command_goes_on(cli: Cli):
    process = started(cli)

    process.send_signal(signal.SIGINT)

    stdout, stderr = process.communicate(timeout=60)
    assert ExitCode.INTERRUPTED == process.returncode
    assert "saving a checkpoint, then ending" in stdout
    assert "the same command goes on from the newest checkpoint" in stdout
    assert "" == stderr
    again = cli("run", "cells.yaml")
    assert 0 == again.returncode
    assert "attempt 2: goes on from the newest checkpoint" in again.stdout


def test_a_second_ctrl_c_ends_it_now(cli: Cli):
    process = started(cli, script="deaf")
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None

    process.send_signal(signal.SIGINT)

    process.communicate(timeout=30)
    assert ExitCode.KILLED == process.returncode


def test_kill_9_of_the_command_leaves_nothing_and_a_rerun_starts_at_once(cli: Cli):
    process = started(cli)
    record = cli.record()
    assert record.launcher is not None

    process.kill()
    process.communicate()

    wait_until(lambda: not is_alive(record.supervisor) and not is_alive(record.launcher))  # type: ignore[arg-type]
    again = cli("run", "cells.yaml", script="wait end:0")
    assert 0 == again.returncode
    assert (2, record.uid) == (cli.record().attempt, cli.record().uid)


def test_a_run_that_goes_on_already_is_refused_with_21(cli: Cli):
    started(cli, "--detach").communicate()

    ended = cli("run", "cells.yaml")

    assert ExitCode.FENCED == ended.returncode
    assert "cells already runs in" in ended.stderr
    assert "sam3ft cancel" in ended.stderr


def test_a_detached_run_is_looked_after_by_the_other_verbs(cli: Cli):
    process = started(cli, "--detach")
    stdout, _ = process.communicate(timeout=30)
    assert 0 == process.returncode
    assert "sam3ft status" in stdout

    status = cli("status", "cells", "-o", "json")
    logs = cli("logs", "--lines", "5")
    cancelled = cli("cancel", "cells.yaml")

    (seen,) = json_lines(status.stdout)
    assert ("Running", 3) == (seen["state"], seen["progress"]["step"])
    assert "start 1: wait" in logs.stdout
    assert "cells has ended with code 20 (Interrupted)" in cancelled.stdout
    table = cli("status").stdout
    assert "Interrupted, code 20" in table
    assert f"{cli.folder}/runs/cells" in table


def test_logs_follow_until_the_end(cli: Cli):
    started(cli, "--detach").communicate()
    with cli.start("logs", "-f", "-o", "json") as following:
        time.sleep(1)
        cli("cancel")

        stdout, _ = following.communicate(timeout=30)

    assert 0 == following.returncode
    lines = [event["line"] for event in json_lines(stdout)]
    assert any("run ended with 20" in line for line in lines)


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(cli: Cli):
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        cli.argv("run", "cells.yaml"), cwd=cli.folder, env=cli.env("wait", {"TERM": "xterm"}), stdout=inside
    )
    os.close(inside)
    shown = read_until(terminal, b"3/9")

    process.send_signal(signal.SIGINT)

    shown += read_until(terminal, b"goes on from the newest checkpoint")
    assert ExitCode.INTERRUPTED == process.wait(30)
    os.close(terminal)
    assert b"training" in shown
    assert b"\x1b[?25l" in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


def read_until(terminal: int, words: bytes) -> bytes:
    seen = b""
    give_up_at = time.monotonic() + 30
    while words not in seen:
        assert time.monotonic() < give_up_at, seen.decode(errors="replace")
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 65536)
    return seen
