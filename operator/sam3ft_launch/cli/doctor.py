"""`sam3ft doctor`: is this machine fit to train, and can this store hold checkpoints?"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.storage import DEFAULT_PROFILE
from sam3ft_launch.cli.output import OutputFormat, OutputOption, console, emit
from sam3ft_launch.cli.trainer import ask_trainer, error_for
from sam3ft_launch.local.devices import num_gpus

_GIB = 1 << 30
_PLAIN_COLUMNS = 160
_LEAST_DISK_BYTES = 5 * _GIB
_LEAST_MEMORY_BYTES = 4 * _GIB


def doctor(
    address: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="Folder or bucket (s3://, gs://, az://) to try instead.")
    ] = None,
    *,
    profile: Annotated[str, typer.Option(help="Storage profile by which the bucket is reached.")] = DEFAULT_PROFILE,
    output: OutputOption = OutputFormat.TEXT,
) -> int:
    """Check Python, libraries, accelerators, memory and disk; every problem comes with what to do.

    With an address: try everything that checkpoints need of a store, and how fast it is. Nothing is left there.
    """
    if address is not None:
        return _try_store(address, profile, output)
    facts = _facts()
    problems = find_problems(facts)
    if output is OutputFormat.JSON:
        emit(**facts, problems=problems)
    else:
        _print(facts, problems)
    return int(ExitCode.INVALID_CONFIG if problems else ExitCode.SUCCEEDED)


def find_problems(facts: dict[str, Any]) -> list[str]:
    """Return what stands in the way of training, each with what to do; pure."""
    problems = [
        f"{name} is not installed; install the trainer with: pip install 'sam3ft[trainer]'"
        for name, version in facts.get("libraries", {}).items()
        if version is None
    ]
    if facts["trainer_error"]:
        problems.append(f"the trainer cannot be started: {facts['trainer_error']}")
    if facts["disk_free_bytes"] < _LEAST_DISK_BYTES:
        problems.append(
            f"{facts['disk_free_bytes'] / _GIB:.1f} GiB are free in {facts['folder']}, and checkpoints need at least "
            f"{_LEAST_DISK_BYTES // _GIB}; name another place with --run-dir"
        )
    if facts["memory_free_bytes"] < _LEAST_MEMORY_BYTES:
        problems.append(
            f"{facts['memory_free_bytes'] / _GIB:.1f} GiB of memory are free, and training needs at least "
            f"{_LEAST_MEMORY_BYTES // _GIB}; end other programs"
        )
    if facts["device_nodes"] and facts.get("devices") == []:
        problems.append(
            f"{facts['device_nodes']} NVIDIA devices are present and torch sees none; compare the driver (nvidia-smi) "
            f"with torch's CUDA version {facts.get('cuda')}"
        )
    return problems


def _try_store(address: str, profile: str, output: OutputFormat) -> int:
    answer = ask_trainer(["doctor", address, "--profile", profile])
    if "findings" not in answer.document:
        raise error_for(answer.code, answer.message)
    if output is OutputFormat.JSON:
        emit(**answer.document)
    else:
        _print_store(answer.document)
    return answer.code


def _print_store(found: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    tried = [finding for finding in found["findings"] if finding["state"] != "untried"]
    for finding in tried:
        weight = "" if finding["needed"] else " (not needed)"
        table.add_row(finding["name"] + weight, finding["state"], finding["detail"])
    if untried := len(found["findings"]) - len(tried):
        table.add_row("the rest", "", f"{untried} properties rest on what has failed, and were not tried")
    speed = found["speed"]
    for way in ("read", "write"):
        if f"{way}_p50_ms" in speed:
            small = "{p50_ms:,.1f} ms median, {p99_ms:,.1f} ms p99".format(**_of(speed, way))
            table.add_row(f"{way}, 4 KiB", "", f"{small}, {speed[f'small_{way}s_per_s']:,.0f} objects/s one by one")
        if f"{way}_mb_s" in speed:
            table.add_row(f"{way}, 24 MiB", "", f"{speed[f'{way}_mb_s']:,.0f} MB/s")
    print(f"{found['address']} at {found['endpoint'] or 'this machine'}, profile {found['profile']}\n")
    screen = console()
    screen.width = screen.width if sys.stdout.isatty() else _PLAIN_COLUMNS
    screen.print(table)
    print()
    print("checkpoints can be kept there" if found["usable"] else f"NOT usable for checkpoints: {found['message']}")


def _of(speed: dict[str, float], way: str) -> dict[str, float]:
    return {name.removeprefix(f"{way}_"): value for name, value in speed.items() if name.startswith(f"{way}_")}


def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sam3ft": importlib.metadata.version("sam3ft"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_free_bytes": _memory_free_bytes(),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "folder": str(Path.cwd()),
        "device_nodes": num_gpus(os.environ),
        "trainer_error": "",
    }
    if importlib.util.find_spec("torch") is None:
        return {**facts, "libraries": {"torch": None}}
    answer = ask_trainer(["doctor"])
    if "libraries" not in answer.document:
        return {**facts, "trainer_error": answer.message}
    return {**facts, **answer.document}


def _memory_free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _print(facts: dict[str, Any], problems: list[str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name in ("sam3ft", "python", "system", "cores"):
        table.add_row(name, str(facts[name]))
    table.add_row("memory", f"{facts['memory_free_bytes'] / _GIB:.1f} GiB free")
    table.add_row("disk", f"{facts['disk_free_bytes'] / _GIB:.1f} GiB free in {facts['folder']}")
    for name, version in facts.get("libraries", {}).items():
        table.add_row(name, version or "not installed")
    for device in facts.get("devices", []):
        bf16 = "bf16" if device["bf16"] else "no bf16: use precision fp16"
        table.add_row(
            "accelerator",
            f"{device['name']}, {device['memory_free_bytes'] / _GIB:.1f} of "
            f"{device['memory_bytes'] / _GIB:.1f} GiB free, {bf16}",
        )
    if not facts.get("devices"):
        table.add_row("accelerator", "none; training runs on the CPU")
    console().print(table)
    print()
    print("\n".join(f"PROBLEM: {problem}" for problem in problems) or "everything that training needs is here")
