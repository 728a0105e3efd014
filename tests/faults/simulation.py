"""A run whose ranks are threads over the real order, log and checkpoints, and whose incarnations die, shrink and grow.

The model is a function of a dozen float64 numbers that depends on every image id and on the order of additions, so
that a missed image, a repeated one, or a state that is not exactly the committed one shows in its bits.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sam3ft_api.errors import Fenced, Sam3ftError
from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.data.order import Window, windows
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta, RunFacts

State = dict[str, Tensor]
SIZE = 12
FACTS = RunFacts(task="detection", numbers_digest="n", dataset_digest="d", model_digest="m")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is computed, whoever computes it.

    Attributes:
        image_ids: of the data set.
        seed: of the order.
        batch: global batch.
        steps: of the run.
        every: steps between saves.
    """

    image_ids: tuple[int, ...]
    seed: int
    batch: int
    steps: int
    every: int

    def windows(self, cursor: int = 0) -> Iterator[Window]:
        """The real order from a cursor on, to the last step."""
        for window in windows(self.image_ids, seed=self.seed, global_batch=self.batch, cursor=cursor):
            if window.step >= self.steps:
                return
            yield window


def first_state() -> State:
    """The state before step 0."""
    return {
        "model/weight": torch.linspace(-1, 1, SIZE, dtype=torch.float64),
        "optimizer/weight/momentum": torch.zeros(SIZE, dtype=torch.float64),
        "ema/weight": torch.zeros(SIZE, dtype=torch.float64),
    }


def partial_sum(state: State, image_ids: tuple[int, ...], step: int) -> Tensor:
    """One rank's part of the gradient: its images, one after the other."""
    total = torch.zeros(SIZE, dtype=torch.float64)
    ramp = torch.arange(1, SIZE + 1, dtype=torch.float64)
    for image_id in image_ids:
        total += torch.sin(ramp * (image_id % 977) * 0.618 + 0.1 * step + state["model/weight"])
    return total


def advance(state: State, parts: list[Tensor]) -> None:
    """One update from the parts of all ranks, in rank order."""
    gradient = torch.zeros(SIZE, dtype=torch.float64)
    for part in parts:
        gradient += part
    state["optimizer/weight/momentum"].mul_(0.9).add_(gradient)
    state["model/weight"].sub_(0.01 * state["optimizer/weight/momentum"])
    state["ema/weight"].mul_(0.95).add_(0.05 * state["model/weight"])


def bits(state: State) -> bytes:
    """Every bit of a state."""
    return b"".join(state[name].numpy().tobytes() for name in sorted(state))


class Dead(BaseException):
    """This rank was killed: nothing it does from here on has an effect."""


@dataclass
class Fate:
    """Decides when the ranks of one incarnation die.

    Attributes:
        at_request: of all ranks together, counted from 0; None lets them live.
        after: the request is carried out first, and its answer is lost.
        spread_s: from the death of one rank to that of the others.
    """

    at_request: int | None = None
    after: bool = False
    spread_s: float = 0.0
    requests: int = 0
    _dead: set[int] = field(default_factory=set)
    _all_dead_at_s: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def has_struck(self) -> bool:
        """Whether anyone was killed."""
        return bool(self._dead)

    def check(self, rank: int) -> None:
        """Raise `Dead` in the thread of a dead rank."""
        if rank in self._dead or (self._all_dead_at_s is not None and time.monotonic() >= self._all_dead_at_s):
            raise Dead

    def request(self, rank: int, call: Callable[[], Any]) -> Any:
        """Carry a request out, unless its rank is dead or dies with it."""
        self.check(rank)
        with self._lock:
            is_last = self.requests == self.at_request
            self.requests += 1
        if is_last and not self.after:
            self.kill(rank)
        try:
            return call()
        finally:
            if is_last:
                self.kill(rank)

    def kill(self, rank: int) -> None:
        """The end of a rank, and of the others a little later."""
        self._dead.add(rank)
        self._all_dead_at_s = time.monotonic() + self.spread_s
        raise Dead


class MortalStore(Store):
    """A store whose requests end with their rank."""

    def __init__(self, store: Store, fate: Fate, rank: int) -> None:
        """Wrap an open store."""
        self.__dict__.update(store.__dict__)
        self._fate, self._rank = fate, rank

    def put(self, key: str, data: Any) -> None:
        """As `Store.put`; so are the others."""
        self._fate.request(self._rank, lambda: super(MortalStore, self).put(key, data))

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Mortal."""
        self._fate.request(self._rank, lambda: super(MortalStore, self).put_if_absent(key, data))

    def get(self, key: str) -> bytes:
        """Mortal."""
        return self._fate.request(self._rank, lambda: super(MortalStore, self).get(key))  # type: ignore[no-any-return]

    def get_range(self, key: str, start: int, length: int) -> memoryview:
        """Mortal."""
        return self._fate.request(  # type: ignore[no-any-return]
            self._rank, lambda: super(MortalStore, self).get_range(key, start, length)
        )

    def head(self, key: str) -> Any:
        """Mortal."""
        return self._fate.request(self._rank, lambda: super(MortalStore, self).head(key))

    def delete(self, keys: Any) -> None:
        """Mortal."""
        self._fate.request(self._rank, lambda: super(MortalStore, self).delete(keys))


class MortalExchange(LocalExchange):
    """What the threads of one incarnation tell each other; a dead rank neither speaks nor hears."""

    def __init__(self, shared: LocalExchange, fate: Fate, rank: int) -> None:
        """Be one rank's end of `shared`."""
        self.__dict__.update(shared.__dict__)
        self._fate, self._rank = fate, rank

    def put(self, key: str, value: bytes) -> None:
        """Speak, if alive."""
        self._fate.check(self._rank)
        super().put(key, value)

    def get(self, key: str, *, timeout_s: float) -> bytes:
        """Listen for as long as this rank lives."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while key not in self._values and time.monotonic() < deadline:
                self._fate.check(self._rank)
                self._changed.wait(0.005)
        return super().get(key, timeout_s=0.0)


@dataclass
class Incarnation:
    """One group of ranks from its start to its end.

    Attributes:
        problem: what is computed.
        world_size: ranks.
        open: opens the run's store.
        fate: of the ranks.
        stop_at: step at which it saves and ends, as on a resize; None goes on to the end.
        generation: of its claim, 0 without one.
        base: (log entry, step, bits) of the commit it began from; None for the first state.
        shares: (step, rank) -> image ids.
        states: bits of rank 0's state by finished steps; all ranks had the same.
        ended: how: finished, stopped, killed, fenced, or the text of an error.
    """

    problem: Problem
    world_size: int
    open: Callable[[], Store]
    fate: Fate
    stop_at: int | None = None
    pause_s: float = 0.0
    generation: int = 0
    base: tuple[int, int, bytes] | None = None
    shares: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    states: dict[int, bytes] = field(default_factory=dict)
    ended: str = ""
    _ends: dict[int, str] = field(default_factory=dict)
    _parts: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _bits: dict[tuple[int, int], bytes] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start the ranks."""
        self._exchange = LocalExchange()
        self._meeting = threading.Barrier(self.world_size)
        self._threads = [threading.Thread(target=self._live, args=(rank,)) for rank in range(self.world_size)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the end of all ranks and note it."""
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a rank hangs"
        ends = set(self._ends.values())
        self.ended = next((end for end in ("killed", "fenced") if end in ends), "; ".join(sorted(ends)))
        by_step: dict[int, set[bytes]] = {}
        for (step, _), state in self._bits.items():
            by_step.setdefault(step, set()).add(state)
        assert all(len(states) == 1 for states in by_step.values()), "ranks of one group held different states"
        self.states = {step: states.pop() for step, states in by_step.items()}

    def _live(self, rank: int) -> None:
        try:
            self._ends[rank] = self._work(rank)
        except (Dead, threading.BrokenBarrierError):
            self._ends[rank] = "killed" if self.fate.has_struck else "left alone"
        except Fenced:
            self._ends[rank] = "fenced"
        except Sam3ftError as error:
            self._ends[rank] = "killed" if self.fate.has_struck else f"{type(error).__name__}: {error}"
        finally:
            self._meeting.abort()

    def _work(self, rank: int) -> str:
        run = open_run_store(
            CheckpointConfig(uri="unused", keep_last=2),
            IdentityConfig(),
            FACTS,
            rank=rank,
            world_size=self.world_size,
            exchange=MortalExchange(self._exchange, self.fate, rank),
            options=StoreOptions(outage_s=2.0, peer_timeout_s=5.0),
            store=MortalStore(self.open(), self.fate, rank),
        )
        try:
            return self._train(rank, run)
        finally:
            run.close(timeout_s=10)

    def _train(self, rank: int, run: RunStore) -> str:
        state = first_state()
        restored = run.restore(state)
        if rank == 0:
            self.generation = run.generation
            if restored is not None:
                self.base = (restored.seq, restored.step, bits(state))
        cursor = 0 if restored is None else int(restored.meta.cursor["images"])  # type: ignore[arg-type]
        for window in self.problem.windows(cursor):
            self._step(rank, state, window)
            done = window.step + 1
            is_last = done in {self.problem.steps, self.stop_at}
            if is_last or done % self.problem.every == 0:
                meta = CommitMeta(step=done, cursor={"images": window.cursor_after})
                run.save(state, meta, wait=is_last)
            run.poll()
            if done == self.stop_at:
                return "stopped"
        return "finished"

    def _step(self, rank: int, state: State, window: Window) -> None:
        self.fate.check(rank)
        time.sleep(self.pause_s)
        share = window.share(rank, self.world_size)
        self.shares[window.step, rank] = share
        self._parts[window.step, rank] = partial_sum(state, share, window.step)
        self._meeting.wait(30)
        advance(state, [self._parts[window.step, other] for other in range(self.world_size)])
        self._bits[window.step + 1, rank] = bits(state)
        self._meeting.wait(30)


def recomputed(problem: Problem, base: tuple[int, bytes] | None, *, world_size: int, until: int) -> dict[int, bytes]:
    """Bits of every state from a base on, computed by plain arithmetic: no threads, no store."""
    state = first_state()
    step, cursor = 0, 0
    if base is not None:
        step = base[0]
        load_bits(state, base[1])
        cursor = next((w.cursor_after for w in problem.windows() if w.step + 1 == step), 0)
    found = {}
    for window in problem.windows(cursor):
        if window.step >= until:
            break
        advance(state, [partial_sum(state, window.share(rank, world_size), window.step) for rank in range(world_size)])
        found[window.step + 1] = bits(state)
    return found


def load_bits(state: State, data: bytes) -> None:
    """Put the bits of `bits` back."""
    flat = torch.frombuffer(bytearray(data), dtype=torch.float64)
    for number, name in enumerate(sorted(state)):
        state[name].copy_(flat[number * SIZE : (number + 1) * SIZE])


def draw_problem(draw: random.Random) -> Problem:
    """A data set and a run over it that no batch divides evenly, most of the time."""
    count = draw.randint(9, 40)
    return Problem(
        image_ids=tuple(draw.sample(range(10_000), count)),
        seed=draw.randrange(1000),
        batch=draw.randint(8, 13),
        steps=draw.randint(40, 80),
        every=draw.randint(1, 4),
    )
