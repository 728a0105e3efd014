"""The figures as a document, as tables for people, and as a section of docs/benchmarks.md."""

import datetime as dt
import fcntl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.operator_scale.site import ROOT

sys.path[:0] = [str(ROOT / "tests" / "harness")]
from sam3ft_faults.record import this_machine  # noqa: E402 - lies with the tests

HEADING = "### Figures of the operator"
NONE_YET = "Not measured at its full size yet."
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BUSY = 0.9
"""From this share of all cores on, the machine is what limits."""
OTHERS = 0.2
"""From so many cores on, other programs of the machine are named: figures beside them are too slow."""
HOSTILE_FACTOR, HOSTILE_SLACK_S = 2.0, 0.25
"""Beside hostile resources a 99th percentile may be so many times as long, or longer by so much, before they delay."""
_TIMES = (
    ("created_to_check_s", "resource created to its preflight Job created"),
    ("checked_to_workers_s", "check's pod ended to worker Job created"),
    ("failed_to_status_s", "worker failed to status Failed"),
)


def this_commit() -> str:
    """Return the commit of the sources, with a plus when they have been changed since; empty where there is no git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def about() -> dict[str, str]:
    """Return date, machine and commit."""
    now = dt.datetime.now(dt.UTC)
    return {"date": f"{now:%Y-%m-%d %H:%M}", "machine": this_machine(), "commit": this_commit()}


def limit_of(load: Mapping[str, Any]) -> str:
    """Return what kept the load from being quicker, in a few words."""
    busiest, cores = next(iter(load["cores"].items()))
    words = f"{busiest} with {cores:.2f} cores"
    if load["machine_busy"] >= BUSY:
        others = f", and {load['other_cores']:.2f} taken by other work" if load["other_cores"] >= OTHERS else ""
        return f"the machine's cores ({load['machine_busy']:.0%} busy), most of them {words}{others}"
    return f"the rate at which runs were made; the machine was {load['machine_busy']:.0%} busy, most of it {words}"


def failures_of(figures: Mapping[str, Any], *, least_looks: int) -> list[str]:
    """Return in which ways the figures miss what they must reach; empty when all is well."""
    found = []
    load = figures["load"]
    if load["duplicates"]:
        found.append(f"{len(load['duplicates'])} objects were created twice, the first is {load['duplicates'][0]}")
    if load["errors"]["403"]:
        found.append(f"{load['errors']['403']} requests were forbidden")
    for name, _ in _TIMES:
        expected = load["failures"] if name == "failed_to_status_s" else load["resources"]
        if load[name]["n"] != expected:
            found.append(f"{name} has {load[name]['n']} values instead of {expected}")
    hostile = figures.get("hostile") or {}
    for name, words in _TIMES[:2] if hostile else ():
        alone, beside = hostile["alone"][name]["p99"], hostile["beside"][name]["p99"]
        if beside > max(HOSTILE_FACTOR * alone, alone + HOSTILE_SLACK_S):
            found.append(
                f"hostile resources delay others: {words}, p99 {alone:.3f} s alone, {beside:.3f} s beside them"
            )
    memory = figures.get("memory")
    if memory and memory["looks"] >= least_looks:
        slope, bound = memory["slope_kib_per_1000_looks"], memory["bound_kib_per_1000_looks"]
        if slope > bound:
            found.append(f"1,000 looks add {slope:.1f} KiB, more than {bound:g}")
    return found


def table(figures: Mapping[str, Any]) -> list[str]:
    """Return the lines of the tables, in Markdown."""
    return [*_latencies(figures), "", *_amounts(figures), "", *_calls(figures["load"])]


def _latencies(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "| from, to | p50 | p99 | most | n |"
    yield "|---|---|---|---|---|"
    for name, words in _TIMES:
        yield _row(words, figures["load"][name])
    yield _row("of each, the API server's answer to one write of the operator", figures["load"]["api_answer_s"])
    for which, note in (("alone", "without hostile ones"), ("beside", "beside hostile ones")):
        for name, words in _TIMES[:2] if figures.get("hostile") else ():
            yield _row(f"{words}, {note}", figures["hostile"][which][name])


def _row(words: str, times: Mapping[str, Any]) -> str:
    cells = [f"{times[name]:.3f} s" if times[name] is not None else "" for name in ("p50", "p99", "max")]
    return f"| {words} | {' | '.join(cells)} | {times['n']:,} |"


def _amounts(figures: Mapping[str, Any]) -> Iterator[str]:
    load, memory = figures["load"], figures.get("memory")
    errors = ", ".join(f"{count} of {code}" for code, count in load["errors"].items())
    yield "| figure | value |"
    yield "|---|---|"
    yield f"| runs, workers of each, nodes | {load['resources']:,}, {load['pods']}, {load['nodes']:,} |"
    yield f"| runs made a second, asked for and reached | {load['rate']:g}, {load['rate_reached']:.2f} |"
    yield f"| seconds until every run had all its workers | {load['seconds']:,.0f} |"
    yield f"| objects created twice | {len(load['duplicates'])} |"
    yield f"| refusals of the operator's requests | {errors} |"
    yield f"| requests a second, everybody's; refused for the server's own limits | {load['requests_per_s']:,.0f}; {load['refused']} |"  # noqa: E501 - one row
    yield f"| operator, most memory; CPU | {load['operator_peak_mib']:.0f} MiB; {load['operator_cpu_s']:.0f} s, {1000 * load['operator_cpu_s'] / load['resources']:.0f} ms a run |"  # noqa: E501 - one row
    yield f"| cores kept busy | {', '.join(f'{name} {cores:.2f}' for name, cores in load['cores'].items())} |"
    yield f"| cores taken by other programs | {load['other_cores']:.2f} |"
    yield f"| limited by | {limit_of(load)} |"
    if memory:
        yield (
            f"| memory by looks | {memory['slope_kib_per_1000_looks']:+.1f} KiB for 1,000 looks (at most "
            f"{memory['bound_kib_per_1000_looks']:g}), over {memory['looks']:,.0f} looks in {memory['seconds']:.0f} s; "
            f"{memory['first_mib']:.1f} to {memory['last_mib']:.1f} MiB after the warm-up |"
        )


def _calls(load: Mapping[str, Any]) -> Iterator[str]:
    yield "| the operator's requests | a run |"
    yield "|---|---|"
    for call, count in load["calls_per_run"].items():
        yield f"| {call} | {count:.2f} |"
    yield f"| all | {sum(load['calls_per_run'].values()):.1f} |"


def record(figures: Mapping[str, Any], file: Path = DOCUMENT) -> None:
    """Put the tables below `HEADING` of a document, behind those that are there; one process at a time.

    Raises:
        ValueError: the document has no such heading.
    """
    with file.open("r+", encoding="utf-8") as document:
        fcntl.flock(document, fcntl.LOCK_EX)
        lines = document.read().replace(f"{NONE_YET}\n\n", "").splitlines()
        if HEADING not in lines:
            raise ValueError(f"{file}: no line is {HEADING!r}")
        at = lines.index(HEADING) + 1
        while at < len(lines) and not lines[at].startswith(("## ", "### ")):
            at += 1
        head = f"{figures['date']}, {figures['machine']}, commit {figures['commit'] or 'unknown'}:"
        lines[at:at] = [head, "", *table(figures), ""]
        document.seek(0)
        document.truncate()
        document.write("\n".join(lines) + "\n")
