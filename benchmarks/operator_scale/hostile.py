"""Whether hostile resources delay others: the same batch of good ones twice, alone and beside them."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.operator_scale.coordinators import Coordinators
from benchmarks.operator_scale.load import MANAGER, Batch, Driver, Run, body_of, runs_named
from benchmarks.operator_scale.site import NAMESPACE, Site, wait_for

from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.kubernetes.kinds import FINETUNE

ENDLESS, UNPLANNABLE = "hostile-endless", "hostile-unplannable"
EDIT_EVERY_S = 0.2
"""Between two edits of each: more often than the operator's queue looks at one run, and no load for the API server."""


def measure_hostile(driver: Driver, coordinators: Coordinators, *, count: int, rate: float) -> tuple[Batch, Batch]:
    """Make a batch of good resources alone, and another one beside hostile ones; return both.

    One hostile resource trains: its coordinator's answers are garbage without an end, and somebody writes into its
    status and its annotations all the time. The other one cannot be planned, and is edited likewise.
    """
    calm = driver.do("without hostile ones", runs_named("calm", count), rate=rate)
    driver.delete(calm)
    with _hostile(driver, coordinators):
        beside = driver.do("beside hostile ones", runs_named("beside", count), rate=rate)
    driver.delete(beside)
    return calm, beside


@contextmanager
def _hostile(driver: Driver, coordinators: Coordinators) -> Iterator[None]:
    """Let the hostile resources live."""
    bad = body_of(UNPLANNABLE, pods=driver.pods, training={"config": {"optim": {"no_such_setting": 1}}})
    driver.site.api.create(FINETUNE, NAMESPACE, bad, manager=MANAGER)
    run = Run(ENDLESS, address=coordinators.hostile)
    driver.do("hostile", {ENDLESS: run}, rate=1.0)
    wait_for(lambda: coordinators.asked[coordinators.hostile] > 0, "the hostile coordinator is asked")
    stopping = threading.Event()
    editors = [
        threading.Thread(target=_edit, args=(driver.site, name, stopping), daemon=True)
        for name in (ENDLESS, UNPLANNABLE)
    ]
    for editor in editors:
        editor.start()
    try:
        yield
    finally:
        stopping.set()
        for editor in editors:
            editor.join(10.0)
        for name in (ENDLESS, UNPLANNABLE):
            driver.site.api.delete(FINETUNE, NAMESPACE, name)


def _edit(site: Site, name: str, stopping: threading.Event) -> None:
    """Write into status and annotations in turn, until stopped."""
    phases = itertools.cycle(["Checking", "Running", "Queued", "Starting"])
    for number in itertools.count():
        if stopping.wait(EDIT_EVERY_S):
            return
        is_status = number % 2 == 0
        change = {"status": {"phase": next(phases), "summary": {"message": f"edit {number}"}}}
        note = {"metadata": {"annotations": {"bench.sam3ft.dev/touched": str(number)}}}
        body, subresource = (change, "status") if is_status else (note, "")
        try:
            site.api.patch(FINETUNE, NAMESPACE, name, body, manager=MANAGER, subresource=subresource)
        except ApiProblem:
            continue  # a refused edit is the operator's or the server's good right
