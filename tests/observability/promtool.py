"""Prometheus' own checker of rules, settings and metrics."""

import shutil
import subprocess

from tools_here import need_tool


def promtool(*words: str, text: str = "") -> str:
    """Return what it says; a complaint of its is a failure.

    Args:
        words: of the command line.
        text: its standard input.
    """
    program = shutil.which("promtool")
    if program is None:
        need_tool("promtool is not installed; make components installs it")
    done = subprocess.run([str(program), *words], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout
