"""The operator as one object: what is made from what, in which order it starts and ends."""

import logging
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from sam3ft_launch.kubernetes.api import Api
from sam3ft_launch.kubernetes.kinds import WATCHED
from sam3ft_launch.stop_signal import StopSignal
from sam3ft_operator.agents import Agents
from sam3ft_operator.effects import Effects, Renderer
from sam3ft_operator.finetunes import FineTuneLists, FineTuneWatch
from sam3ft_operator.lease import LEASE_ANSWER_S, Elector
from sam3ft_operator.metrics import Metrics
from sam3ft_operator.notes import Notes
from sam3ft_operator.options import Options
from sam3ft_operator.probes import Probes
from sam3ft_operator.progress import ProgressReader
from sam3ft_operator.queue import WorkQueue
from sam3ft_operator.reconcile import Decide, Reconciler, Sight
from sam3ft_operator.resync import Resync
from sam3ft_operator.store import ChildStore, ResourceStore
from sam3ft_operator.trouble import Troubles
from sam3ft_operator.watch import Watch
from sam3ft_operator.workers import Workers

_log = logging.getLogger(__name__)

FINISH_S = 20.0
"""Seconds that the looks which are under way get at the end; each of their requests is bounded."""
_SYNC_POLL_S = 0.1


class Operator:
    """Watches from the start, acts while it holds the Lease."""

    def __init__(self, options: Options, *, decide: Decide, renderer: Renderer, coordinator_port: int) -> None:
        """Make every part and open the port of the probes; nothing is started.

        Args:
            options: of the command line.
            decide: the pure core.
            renderer: makes the objects of a run.
            coordinator_port: of every coordinator's `/progress`.

        Raises:
            RuntimeError: there are no credentials for a cluster.
            OSError: the port is taken.
        """
        self._stopping = StopSignal()
        self._exit_code = 0
        self._queue = WorkQueue()
        self._resources = ResourceStore(changed=self._queue.add)
        self._children = ChildStore((kind.name for kind in WATCHED), changed=self._queue.add)
        self.metrics = Metrics(self._resources.all)
        self._api = Api(options.api, count=self.metrics.requested)
        now_s = self._api.clock.now_s
        self._watches = [Watch(self._api, kind, namespace=options.namespace, store=self._children) for kind in WATCHED]
        self._resync = Resync(
            self._api, WATCHED, namespace=options.namespace, store=self._children, resync_s=options.resync_s
        )
        self._lists = FineTuneLists(
            self._api, namespace=options.namespace, store=self._resources, resync_s=options.resync_s
        )
        self._kopf = FineTuneWatch(
            self._api, namespace=options.namespace, store=self._resources, ended=self._lists.hurry
        )
        self._progress = ProgressReader(changed=self._queue.add, clock=now_s)
        self._notes = Notes(self._api, clock=now_s)
        self._agents = Agents(self._api)
        reconciler = self._reconciler(decide, renderer, coordinator_port)
        self._workers = Workers(self._queue, reconciler.reconcile, count=options.workers, observed=self.metrics.looked)
        # The Lease is kept by requests that never wait behind those of the runs, nor so long that no other can follow.
        api = Api(replace(options.api, answer_s=LEASE_ANSWER_S))
        self._elector = Elector(api, options.lease, gained=self._gained, lost=self._lost)
        self.probes = Probes(
            options.metrics_host,
            options.metrics_port,
            live=self.not_live,
            ready=self.not_ready,
            metrics=self.metrics.text,
        )
        self._add_states()

    def _reconciler(self, decide: Decide, renderer: Renderer, coordinator_port: int) -> Reconciler:
        troubles = Troubles(self._api)
        return Reconciler(
            self._api,
            Sight(self._resources, self._children, self._progress, troubles, self._agents, coordinator_port),
            effects=Effects(self._api, self._children, renderer),
            notes=self._notes,
            decide=decide,
            refusal=renderer.refusal,
            now_s=self._api.clock.now_s,
            written=self.metrics.status_written,
        )

    def run(self) -> int:
        """Work until SIGTERM, SIGINT or the loss of the Lease; return the exit code. For the main thread alone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        self.probes.start()
        self._progress.start()
        for thread in (*self._watches, self._resync, self._lists, self._kopf, self._elector):
            thread.start()
        _log.info("started; probes and metrics on port %d", self.probes.port)
        while not self._stopping.wait(1.0):
            if not self._kopf.is_alive():
                _log.error("the watch of the resources has ended")
                self._exit_code = 1
                break
            if self._elector.is_overdue:
                # Its thread may wait for an answer for longer than the Lease lasts.
                self._lost()
        self._end()
        return self._exit_code

    def not_live(self) -> list[str]:
        """Return what only a new start can mend; an API server that is away is not among it, nor is an end."""
        if self._stopping.is_set():
            return []
        wrong = [f"the watch of {watch.kind.plural} is stuck" for watch in self._watches if watch.is_stuck]
        wrong += ["the complete lists are stuck"] if self._resync.is_stuck else []
        wrong += ["the watch of the resources is stuck"] if self._kopf.is_stuck else []
        wrong += ["the Lease's thread is stuck"] if self._elector.is_stuck else []
        wrong += ["a worker is stuck"] if self._workers.is_stuck else []
        return wrong

    def not_ready(self) -> list[str]:
        """Return what keeps this replica from working, or from taking over at once."""
        wrong = [f"no list of {watch.kind.plural} yet" for watch in self._watches if not watch.is_synced]
        wrong += [] if self._lists.is_synced else ["no list of the resources yet"]
        wrong += [] if self._elector.is_known else ["the Lease is not known yet"]
        wrong += ["ending"] if self._stopping.is_set() else []
        return wrong

    def _gained(self) -> None:
        """Begin to act, in a thread of its own: the Lease's must go on renewing it."""
        _log.info("the Lease is ours")
        threading.Thread(target=self._begin, name="begin", daemon=True).start()

    def _begin(self) -> None:
        """Start the workers once everything has been seen: what is not in memory must not be taken for missing."""
        while not self._stopping.is_set():
            if self._lists.is_synced and all(watch.is_synced for watch in self._watches):
                self._workers.start()
                _log.info("working")
                return
            time.sleep(_SYNC_POLL_S)

    def _lost(self) -> None:
        _log.error("the Lease is lost; ending")
        self._exit_code = 1
        self._stopping.set()

    def _end(self) -> None:
        """Finish the looks that are under way, then give the Lease back: another replica must not begin before.

        Without the Lease nothing is finished: another replica may act by now.
        """
        _log.info("ending")
        self._stopping.set()
        is_ours = self._elector.is_leading and not self._elector.is_overdue
        finish_s = FINISH_S if is_ours else 0.0
        self._queue.close()
        if not self._workers.join(within_s=finish_s):
            _log.warning("a look has not ended within %.0f s", finish_s)
        self._elector.stop()
        self._kopf.stop()
        self._lists.stop()
        self._resync.stop()
        for watch in self._watches:
            watch.stop()
        self._progress.stop()
        self.probes.close()
        _log.info("ended")

    def _add_states(self) -> None:
        add = self.metrics.states.add
        add("sam3ft_leader", "1 while this replica acts.", lambda: {(): float(self._elector.is_leading)})
        add("sam3ft_queue_depth", "Runs that wait for a worker.", lambda: {(): float(self._queue.depth())})
        add("sam3ft_watch_silence_seconds", "Age of the newest sign of a watch.", self._silences, labels=("kind",))
        sites = ("namespace", "site")
        add("sam3ft_site_silence_seconds", "Since an agent's last sign of life.", self._agents.silences, labels=sites)
        add("sam3ft_watch_relists", "Complete lists.", self._relists, labels=("kind",), is_counter=True)
        add("sam3ft_cached_objects", "Children kept in memory.", self._cached, labels=("kind",))
        add("sam3ft_events_dropped", "Events not told.", lambda: {(): float(self._notes.dropped)}, is_counter=True)
        add(
            "sam3ft_resync_corrections",
            "Changes that a list has shown before a watch.",
            lambda: {(): float(self._lists.corrections + self._resync.corrections)},
            is_counter=True,
        )
        add(
            "sam3ft_progress_unanswered",
            "Questions to coordinators without a valid answer.",
            lambda: {(): float(self._progress.unanswered)},
            is_counter=True,
        )

    def _silences(self) -> Mapping[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {(watch.kind.name,): watch.silence_s for watch in self._watches}
        return found | {("SAM3FineTune",): min(self._kopf.silence_s, self._lists.silence_s)}

    def _relists(self) -> Mapping[tuple[str, ...], float]:
        return {(watch.kind.name,): float(watch.relists + self._resync.lists[watch.kind]) for watch in self._watches}

    def _cached(self) -> Mapping[tuple[str, ...], float]:
        return {(kind,): float(count) for kind, count in self._children.counts().items()}
