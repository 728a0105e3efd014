"""A small state with every dtype and awkward layout, and ranks as threads of one process."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import LocalExchange
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import RunFacts
from sam3ft_trainer.store.uri import open_store

torch.set_num_threads(1)


def _state(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(24, 10, generator=generator)
    return {
        "model/backbone.weight": weight,
        "model/conv.weight": torch.randn(4, 3, 5, 5, generator=generator).to(memory_format=torch.channels_last),
        "model/head.bias": torch.randn(7, generator=generator).bfloat16(),
        "model/half": torch.randn(3, generator=generator).half(),
        "optimizer/backbone.weight/exp_avg": weight.t() * 2,
        "optimizer/backbone.weight/step": torch.tensor(float(step)),
        "ema/backbone.weight": weight.double()[::2],
        "ema/seen": torch.arange(5) + step,
        "ema/mask": torch.tensor([True, False, step % 2 == 0]),
        "ema/nothing": torch.zeros(0, 3),
        "ema/bytes": torch.arange(3, dtype=torch.uint8),
    }


class Gated(Store):
    """Holds uploads back until `gate` is open; then fails them with `error` if there is one."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._backend, address=store.address, folder=store.folder)
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        super().put(key, data)


@pytest.fixture(scope="session")
def state_at() -> Callable[[int], dict[str, Tensor]]:
    """The state of a step, the same in every call."""
    return _state


@pytest.fixture(scope="session")
def empty_targets() -> Callable[[], dict[str, Tensor]]:
    """Allocated tensors of the state's shapes and layouts, without its values."""
    return lambda: {name: torch.zeros_like(tensor) for name, tensor in _state(0).items()}


@pytest.fixture
def facts() -> RunFacts:
    return RunFacts(task="detection", numbers_digest="n" * 64, dataset_digest="d" * 64, model_digest="m" * 64)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@pytest.fixture
def folder_store(address: str) -> Store:
    return open_store(address, create=True)


@pytest.fixture
def open_run(address: str, facts: RunFacts) -> Callable[..., RunStore]:
    """Open the run of this test as one rank; keyword arguments change config, identity, facts, options or store."""

    def opened(
        *,
        rank: int = 0,
        world_size: int = 1,
        exchange: LocalExchange | None = None,
        options: StoreOptions | None = None,
        store: Store | None = None,
        identity: IdentityConfig | None = None,
        changed_facts: dict[str, Any] | None = None,
        **config: Any,
    ) -> RunStore:
        return open_run_store(
            CheckpointConfig(**{"uri": address, **config}),
            identity or IdentityConfig(),
            facts.model_copy(update=changed_facts or {}),
            rank=rank,
            world_size=world_size,
            exchange=exchange or LocalExchange(),
            options=options or StoreOptions(outage_s=1.0, peer_timeout_s=20.0),
            store=store,
        )

    return opened


@pytest.fixture
def run_ranks() -> Callable[..., list[Any]]:
    """Run a function of (rank, exchange) as threads; returns results, or exceptions, by rank."""

    def run(world_size: int, work: Callable[[int, LocalExchange], Any]) -> list[Any]:
        exchange, results = LocalExchange(), [None] * world_size

        def one(rank: int) -> None:
            try:
                results[rank] = work(rank, exchange)
            except Exception as error:  # noqa: BLE001 - handed to the test
                results[rank] = error

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return results

    return run


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Callable[[Store], Gated]:
    """Put a gate before a store; it is open, and opened again at the end."""

    def before(store: Store) -> Gated:
        gated = Gated(store)
        request.addfinalizer(gated.gate.set)
        return gated

    return before


@pytest.fixture
def gated(gate: Callable[[Store], Gated], folder_store: Store) -> Gated:
    return gate(folder_store)
