"""How the operator scales: many runs on a real control plane, and how long, how often, with what memory it acts.

    python -m benchmarks.operator_scale [--nodes 1000] [--resources 2000] [--rate 2]

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are real, nodes and pods are played by kwok. The
operator is a process of its own under its own account, with its default options. Times are read from the API server's
audit log. Progress goes to standard error, tables and one line of JSON to standard output. Linux; the programs are
built by `make cluster-tools`.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.operator_scale.audit import read_log, spread
from benchmarks.operator_scale.coordinators import Coordinators
from benchmarks.operator_scale.hostile import measure_hostile
from benchmarks.operator_scale.load import Batch, Driver, runs_named
from benchmarks.operator_scale.memory import LEAST_LOOKS, measure_memory
from benchmarks.operator_scale.processes import Meter, Usage, rss_mib
from benchmarks.operator_scale.report import about, failures_of, record, table
from benchmarks.operator_scale.site import Site, running_site

from components import ComponentMissing

HOSTILE_SHARE = 0.5
"""Of the rate of the load, for the batches that are compared: where the machine is full, everybody waits for it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when everything was reached, 1 when not, 2 when it could not be run."""
    options = _options(arguments)
    # Started in the background of a shell, Ctrl-C and its like would be ignored.
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda *_: sys.exit(143)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-operator-") as name:
            figures = about() | measure(options.keep or Path(name), options)
    except (ComponentMissing, RuntimeError, OSError) as error:
        print(f"bench-operator: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench-operator: interrupted; everything has been ended", file=sys.stderr)
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    missed = failures_of(figures, least_looks=LEAST_LOOKS)
    figures["reached"] = not missed
    if options.output == "table":
        print("\n".join(table(figures)))
    print(json.dumps(figures))
    for sentence in missed:
        print(f"bench-operator: {sentence}", file=sys.stderr)
    if options.record:
        record(figures)
    return 1 if missed else 0


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Start everything, run all parts, and return the figures.

    Args:
        folder: of logs and data; exists.
        options: of the command line.

    Raises:
        ComponentMissing: the programs are not built.
        RuntimeError: a part does not come up, or nothing goes on any more.
    """
    found: dict[str, Any] = {}
    last_byte = os.getpid() % 250 + 1
    with (
        Coordinators(nodes=options.pods, last_byte=last_byte) as coordinators,
        running_site(folder, nodes=options.nodes, say=_say) as site,
        Driver(site, options.pods, _say) as driver,
    ):
        addresses = [coordinators.honest] * min(options.answering, options.resources)
        runs = runs_named("load", options.resources, failures=options.failures, addresses=addresses)
        meter = Meter({**site.pids(), "the benchmark": os.getpid()})
        load = driver.do("load", runs, rate=options.rate)
        usage, peak_mib = meter.read(), rss_mib(site.operator.pid, peak=True)
        if options.hostile:
            rate = HOSTILE_SHARE * options.rate
            batches = measure_hostile(driver, coordinators, count=options.hostile, rate=rate)
            found["hostile"] = _hostile_figures(site, batches)
        if options.reconciles:
            living = [run.name for run in runs.values() if not run.must_fail]
            found["memory"] = measure_memory(site, living, looks=options.reconciles, say=_say)
        found["load"] = _load_figures(site, driver, load, usage, options) | {"operator_peak_mib": round(peak_mib, 1)}
    return found


def _load_figures(site: Site, driver: Driver, load: Batch, usage: Usage, options: argparse.Namespace) -> dict[str, Any]:
    timeline, calls = read_log(site.plane.audit_log, driver.ended_pods, begun_s=load.begun_s, ended_s=load.ended_s)
    seconds, count = load.ended_s - load.begun_s, len(load.runs)
    return {
        "resources": count,
        "pods": options.pods,
        "nodes": options.nodes,
        "failures": sum(run.must_fail for run in load.runs.values()),
        "answering": options.answering,
        "rate": options.rate,
        "rate_reached": round((count - 1) / max(load.created_s, 1e-9), 3),
        "seconds": round(seconds, 1),
        "created_to_check_s": spread(timeline.to_check(load.runs)),
        "checked_to_workers_s": spread(timeline.to_workers(load.runs)),
        "failed_to_status_s": spread(timeline.to_failed(driver.ended_pods)),
        "api_answer_s": spread(calls.answers_s),
        "duplicates": timeline.duplicates(),
        "errors": {str(code): number for code, number in sorted(calls.errors.items())},
        "refused": calls.refused,
        "requests_per_s": round(calls.everybody / seconds, 1),
        "calls_per_run": {call: round(number / count, 3) for call, number in calls.operator.most_common()},
        "cores": {name: round(cores, 3) for name, cores in usage.cores().items()},
        "machine_busy": round(usage.machine_busy, 3),
        "other_cores": round(usage.other_cores, 3),
        "operator_cpu_s": round(usage.cpu_s["operator"], 1),
    }


def _hostile_figures(site: Site, batches: tuple[Batch, Batch]) -> dict[str, Any]:
    timeline, _ = read_log(site.plane.audit_log, {}, begun_s=0.0, ended_s=0.0)
    found = {
        name: {
            "created_to_check_s": spread(timeline.to_check(batch.runs)),
            "checked_to_workers_s": spread(timeline.to_workers(batch.runs)),
        }
        for name, batch in zip(("alone", "beside"), batches, strict=True)
    }
    return {"good": len(batches[0].runs), **found}


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operator_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=1000, help="played by kwok (default: %(default)s)")
    parser.add_argument("--resources", type=int, default=2000, help="runs of the load (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=8, help="workers of each run (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=2.0, help="runs made in a second (default: %(default)s)")
    parser.add_argument("--failures", type=int, default=100, help="runs of which a worker fails (default: %(default)s)")
    parser.add_argument(
        "--answering", type=int, default=100, help="runs whose coordinator answers (default: %(default)s)"
    )
    parser.add_argument(
        "--hostile", type=int, default=100, help="good runs beside hostile ones; 0 leaves it out (default: %(default)s)"
    )
    parser.add_argument(
        "--reconciles",
        type=int,
        default=40_000,
        help="looks under which memory is watched; 0: none (default: %(default)s)",
    )
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table", help="json: no tables")
    parser.add_argument("--record", action="store_true", help="append the tables to docs/benchmarks.md")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="put logs and data there, and leave them")
    options = parser.parse_args(arguments)
    options.failures = min(options.failures, options.resources // 2)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
