"""The agent's loop: a tick every few seconds, fewer while something does not answer, and signs of life beside it."""

import logging
import random
import threading
import time
from collections.abc import Callable

from sam3ft_api.errors import Sam3ftError
from sam3ft_launch.kubernetes.api import ApiProblem
from sam3ft_launch.slurm.agent.agent import SiteAgent, TickResult
from sam3ft_launch.slurm.agent.cluster import SiteCluster
from sam3ft_launch.slurm.agent.credentials import Credentials, is_refused
from sam3ft_launch.stop_signal import StopSignal

_log = logging.getLogger(__name__)

SIGN_EVERY_S = 15.0
"""Between two signs of life: the operator calls an agent silent after 90 s."""
JITTER = 0.2
"""Share by which a pause differs from the last, so that the agents of a site do not ask together."""
HANGS_AFTER_S = 900.0
"""An agent of which no tick has ended for so long gives no sign of life: it hangs, and that must be seen."""
MOST_BACK_OFF = 8.0
"""Pauses grow to so many times their length while nothing answers."""


class AgentLoop:
    """Runs an agent until it is stopped."""

    def __init__(
        self,
        agent: SiteAgent,
        *,
        credentials: Credentials,
        every_s: float,
        ticked: Callable[[TickResult, float], None] = lambda _result, _took_s: None,
    ) -> None:
        """Prepare; `run` begins.

        Args:
            agent: that is run.
            credentials: to keep young.
            every_s: between two ticks.
            ticked: told of every tick and how many seconds it took.
        """
        self._agent, self._credentials, self._every_s, self._ticked = agent, credentials, every_s, ticked
        self._stopping = StopSignal()
        self._back_off = 1.0
        self._other = ""
        self._ticked_s = time.monotonic()

    def stop(self) -> None:
        """End after the tick that is under way; jobs go on."""
        self._stopping.set()

    def run(self, *, ticks: int | None = None) -> None:
        """Tick until stopped, or so many times and until nothing it has begun goes on. From the main thread alone.

        Args:
            ticks: how many; None for no end.
        """
        self._give_sign()
        signs = threading.Thread(target=self._give_signs, name="signs", daemon=True)
        signs.start()
        done = 0
        while not self._stopping.is_set():
            self._tick()
            done += 1
            if ticks is not None and done >= ticks and not self._agent.is_busy:
                break
            pause_s = self._every_s * self._back_off * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
            self._stopping.wait(pause_s)
        self._stopping.set()
        self._agent.checks.end_all()
        self._agent.logs.close()

    def _tick(self) -> None:
        if self._other:
            _log.warning("another agent serves this site: %s; waiting until it is gone for a minute", self._other)
            self._ticked_s = time.monotonic()
            return
        begun_s = time.monotonic()
        try:
            result = self._agent.tick()
        except Exception as problem:  # noqa: BLE001 - jobs of other runs must not wait for a person
            self._troubled(problem, "the runs could not be looked at")
            self._back_off = min(MOST_BACK_OFF, 2 * self._back_off)
            return
        self._ticked_s = time.monotonic()
        self._back_off = 1.0 if result.answered else min(MOST_BACK_OFF, 2 * self._back_off)
        self._ticked(result, self._ticked_s - begun_s)

    def _give_signs(self) -> None:
        """In a thread of its own: a scheduler that does not answer blocks a tick for a minute."""
        while not self._stopping.wait(SIGN_EVERY_S):
            if time.monotonic() - self._ticked_s < HANGS_AFTER_S:
                self._give_sign()

    def _give_sign(self) -> None:
        try:
            self._credentials.renew()
            self._other = self._cluster.give_sign()
        except Exception as problem:  # noqa: BLE001 - without a sign of life all runs would be told that nobody is there
            self._troubled(problem, "no sign of life could be given")

    @property
    def _cluster(self) -> SiteCluster:
        return self._agent.cluster

    def _troubled(self, problem: Exception, what: str) -> None:
        if isinstance(problem, ApiProblem) and is_refused(problem):
            if self._credentials.read_again():
                return
            _log.error(
                "%s: the token is not good any more; jobs go on; sam3ft slurm-agent enroll --site %s -n %s renews it",
                what,
                self._cluster.site,
                self._cluster.namespace,
            )
        elif isinstance(problem, ApiProblem | Sam3ftError | OSError):
            _log.warning("%s: %s", what, problem)
        else:
            _log.error("%s", what, exc_info=problem)
