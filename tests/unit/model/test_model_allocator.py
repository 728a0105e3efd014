"""Freed tensors leave the process, whatever was allocated in between."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys
import psutil, torch
from sam3ft_trainer.model.allocator import map_large_blocks

if sys.argv[1] == "fixed":
    assert map_large_blocks()

def resident():
    return psutil.Process().memory_info().rss

before, kept = resident(), []
for _ in range(20):
    passing = [torch.ones(5 << 20) for _ in range(3)]  # 20 MiB each
    kept.append(torch.ones(1 << 20))  # 4 MiB, behind them on the heap
    del passing
print((resident() - before) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is what is set")
def test_blocks_that_are_kept_do_not_pin_those_that_are_freed():
    def grown(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    fixed, default = grown("fixed"), grown("default")

    assert 70 < fixed < 110
    assert default > fixed + 20
