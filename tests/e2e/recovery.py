"""How long a run stands still after a fault, and with what: its coordinator is asked five times a second."""

import json
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from control_plane import ControlPlane, find_program

from sam3ft_launch.kubernetes.settings import PROGRESS_PORT

_ASK = f"""
import json, os, time, urllib.request
address = os.environ["POD_IP"]
host = f"[{{address}}]" if ":" in address else address
while True:
    try:
        answer = urllib.request.urlopen(f"http://{{host}}:{PROGRESS_PORT}/progress", timeout=2).read().decode()
        print(json.dumps([time.time(), json.loads(answer)]), flush=True)
    except OSError:
        pass
    time.sleep(0.2)
"""


@dataclass(frozen=True, slots=True)
class Moment:
    """What the coordinator said at a moment.

    Attributes:
        at_s: seconds since the epoch.
        round: number of the group; a coordinator that starts anew counts anew.
        members: of the group.
        step: newest of the run.
        stepped_s: when it was finished, seconds since the epoch; 0 before the first one.
        commit_step: newest commit.
    """

    at_s: float
    round: int
    members: tuple[str, ...]
    step: int
    stepped_s: float
    commit_step: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a fault has cost.

    Attributes:
        seconds: between two steps at most: of the old group and the new one, or of the group that has stayed.
        lost_steps: steps that were done again.
        pod_s: from the fault until a new pod ran; None without one.
        group_s: from there, or from the last step of the old group where the new one did not wait for the pod, until
            the new one was formed; None when it has stayed.
        reload_s: from there to its first step: imports, restore, first batch.
    """

    seconds: float
    lost_steps: int = 0
    pod_s: float | None = None
    group_s: float | None = None
    reload_s: float | None = None

    def __str__(self) -> str:
        """Return the figures in words."""
        named = (("new pod", self.pod_s), ("group formed", self.group_s), ("first step", self.reload_s))
        parts = [f"{what} {seconds:.1f} s" for what, seconds in named if seconds is not None]
        return f"{self.lost_steps} steps lost, {self.seconds:.1f} s without a step ({', '.join(parts) or 'same group'})"


class ProgressWatch:
    """Asks inside the coordinator's pod, whose policy lets nobody else in, and asks the next pod when that is gone."""

    def __init__(self, plane: ControlPlane, namespace: str, pod: str) -> None:
        """Prepare; `with` begins."""
        program, config = str(find_program("kubernetes", "kubectl")), str(plane.admin_kubeconfig)
        self._command = [program, "--kubeconfig", config, "exec", "-n", namespace, pod]
        self._moments: list[Moment] = []
        self._ending = threading.Event()
        self._asking: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="progress")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._asking is not None:
            self._asking.kill()
        self._thread.join()

    @property
    def moments(self) -> Sequence[Moment]:
        """Everything so far, in order."""
        return tuple(self._moments)

    def _run(self) -> None:
        while not self._ending.is_set():
            words = [*self._command, "--", "python", "-c", _ASK]
            with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as self._asking:
                if self._asking.stdout is not None:
                    for line in self._asking.stdout:
                        if (moment := _moment(line)) is not None:
                            self._moments.append(_after(self._moments, moment))
            self._ending.wait(0.5)


def _after(moments: Sequence[Moment], moment: Moment) -> Moment:
    """Return a moment with the newest step, also while a rank that loads does not know it."""
    if moment.stepped_s or not moments:
        return moment
    return replace(moment, step=moments[-1].step, stepped_s=moments[-1].stepped_s)


def _moment(line: str) -> Moment | None:
    try:
        at_s, answer = json.loads(line)
    except ValueError:  # the pod ended while it spoke
        return None
    told: dict[str, Any] = answer["progress"] or {}
    return Moment(
        at_s=at_s,
        round=answer["round"],
        members=tuple(answer["members"]),
        step=told.get("step") or 0,
        stepped_s=told.get("last_step_unix_s") or 0.0,
        commit_step=answer["commit_step"] or 0,
    )


def recovery_of(
    moments: Sequence[Moment], *, fault_s: float, pod_running_s: float | None = None, regroups: bool = True
) -> Recovery | None:
    """Return what a fault has cost once a new group has taken a step, or the old one three; None before.

    Args:
        moments: in order, from before the fault, of one coordinator.
        fault_s: when it happened, seconds since the epoch.
        pod_running_s: when the pod that replaces another one ran.
        regroups: a new group is waited for.
    """
    before = [it for it in moments if it.at_s <= fault_s][-1]
    since = [before, *(it for it in moments if it.at_s > fault_s)]
    formed = next((it for it in since if it.round != before.round), None)
    if formed is None:
        return None if regroups else _longest_pause(since)
    last = max((it for it in since if it.at_s < formed.at_s), key=lambda it: it.step)
    first = next((it for it in since if it.stepped_s > formed.at_s), None)
    if first is None:
        return None
    group_from_s = last.stepped_s
    if pod_running_s is not None and group_from_s < pod_running_s <= formed.at_s:
        group_from_s = pod_running_s
    return Recovery(
        seconds=first.stepped_s - last.stepped_s,
        lost_steps=max(0, last.step - formed.commit_step),
        pod_s=None if pod_running_s is None else pod_running_s - fault_s,
        group_s=formed.at_s - group_from_s,
        reload_s=first.stepped_s - formed.at_s,
    )


def _longest_pause(moments: Sequence[Moment]) -> Recovery | None:
    """Return the longest time between two steps of a group that has stayed; None before it has taken three."""
    times = sorted({it.stepped_s for it in moments})
    return Recovery(max(map(float.__sub__, times[1:], times))) if len(times) > 3 else None
