"""The example with several nodes in docs/elastic.md, executed as it is written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from elastic_site import MEMBER, Group

DOCS = Path(__file__).parents[3] / "docs" / "elastic.md"


def commands(name: str) -> str:
    """The indented block behind the mark of this name."""
    found = re.search(rf"<!-- executed by a test: {name} -->\n\n((?:    .*\n)+)", DOCS.read_text())
    assert found is not None
    return re.sub(r"(?m)^    ", "", found[1])


def start(group: Group, slot: int | None, script: str, **env: str) -> subprocess.Popen[bytes]:
    assert group.network is not None
    namespace = group.network.hub if slot is None else group.network.node(slot)
    folder = group.folder / f"host-{slot}"
    folder.mkdir()
    (folder / "config.json").write_text('{"runtime": {"device": "cpu"}}')
    argv = ["ip", "netns", "exec", namespace, "bash", "-euc", f"cd {shlex.quote(str(folder))}\n{script}"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return group.spawn(argv, folder / "log", env={"PATH": path, **env})


def test_the_example_with_three_nodes_runs_as_it_is_written(far_group: Group):
    group = far_group
    assert group.network is not None
    start(group, None, commands("coordinator").replace("python -m", "exec python -m"))
    workers = f" -- {shlex.quote(sys.executable)} -I -S {MEMBER} {group.store} --steps 40"
    script = commands("launcher").replace("head:", f"{group.network.hub_address}:").rstrip() + workers
    launchers = [start(group, slot, script, SLOT=str(slot), ADDRESS=group.address(slot)) for slot in (0, 1, 2)]
    codes = [launcher.wait(90) for launcher in launchers]

    logs = {slot: (group.folder / f"host-{slot}" / "log").read_text() for slot in (None, 0, 1, 2)}
    assert [0, 0, 0] == codes, logs
    assert list(range(1, 41)) == group.steps()
    assert "round 1 starts with node-0, node-1, node-2: 6 processes" in logs[None]
    assert (group.folder / "host-1" / "termination.json").exists()
