"""A rank that saves steps until it is told to stop or killed; forked from a nursery so that each start is cheap.

The nursery has imported everything and has never used a store, so that its children may. It reads one JSON line a
request: {"start": job} answers the child's pid, {"reap": pid} waits and answers its exit code. Its end ends all.

Run with a job as its only argument the file does that job in its own process.
"""

import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam3ft_api.errors import Sam3ftError
from sam3ft_api.training import CheckpointConfig, IdentityConfig
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import Exchange, LocalExchange, tcp_exchange
from sam3ft_trainer.store.objects import Store
from sam3ft_trainer.store.opening import StoreOptions
from sam3ft_trainer.store.records import CommitMeta, RunFacts
from sam3ft_trainer.store.uri import open_store

WRONG_STATE = 99
"""Exit code of a worker that was given back other bytes than were saved."""


class Dying(Store):
    """Kills its own process before, during or after the n-th request of a kind.

    Kinds are `put:GROUP` of a checkpoint file, `head`, `create:KIND` of a log entry, `delete_prefix`, `get_range`; the
    empty kind counts all. During: a thread kills while the request is under way.
    """

    def __init__(self, store: Store, job: dict[str, Any]) -> None:
        """Count requests of the kind `job["die"]["kind"]` from 0 to `request`; `when` is before, during or after."""
        super().__init__(store._backend, address=store.address, folder=store.folder)
        self._job, self._die, self._numbers = job, job["die"], itertools.count()

    def _request(self, kind: str, call: Any, *args: Any) -> Any:
        wanted = self._die.get("kind", "")
        is_last = wanted in {"", kind} and next(self._numbers) == self._die["request"]  # from several threads
        when = self._die["when"]
        if not is_last:
            return call(*args)
        _say(self._job, dying=f"{kind} {when}")
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if when == "during":
            threading.Timer(self._die["after_s"], os.kill, (os.getpid(), signal.SIGKILL)).start()
        try:
            return call(*args)
        finally:
            if when == "during":
                _say(self._job, survived=kind)
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGKILL)

    def put(self, key: str, data: Any) -> None:
        """As `Store.put`, counted; so are the others."""
        name = key.rpartition("/")[2]
        self._request(
            f"put:{'index' if name.endswith('.index.json') else name.partition('-')[0]}", super().put, key, data
        )

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Counted."""
        kind = json.loads(data)["kind"] if key.startswith("log/") else "probe"
        self._request(f"create:{kind}", super().put_if_absent, key, data)

    def head(self, key: str) -> Any:
        """Counted."""
        return self._request("head", super().head, key)

    def delete_prefix(self, prefix: str) -> None:
        """Counted."""
        self._request("delete_prefix", super().delete_prefix, prefix)

    def get_range(self, key: str, start: int, length: int) -> Any:
        """Counted."""
        return self._request("get_range", super().get_range, key, start, length)


def _die_staging(run: RunStore, job: dict[str, Any]) -> None:
    """Kill the process at the n-th copy into the slab; `during` leaves half of it copied."""
    numbers, stage = itertools.count(), run._saver.slab._stage_file
    die = job["die"]

    def staged(plan: Any, tensors: Any) -> None:
        is_last = next(numbers) == die["request"]
        if is_last:
            _say(job, dying=f"stage {die['when']}")
        if is_last and die["when"] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        stage(plan, tensors)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    run._saver.slab._stage_file = staged


def state_at(step: int, megabytes: int) -> dict[str, Tensor]:
    """Return the state of a step: the same in every process, another for every step, of each group a part per rank."""
    ramp = torch.arange((megabytes << 18) // 6, dtype=torch.float32)
    tensors = {
        f"{group}/{name}": ramp * (step + 1) + number
        for number, (group, name) in enumerate(itertools.product(["model", "optimizer", "ema"], ["first", "second"]))
    }
    return tensors | {"optimizer/step": torch.tensor(float(step)), "ema/seen": torch.arange(9) + step}


def main(job: dict[str, Any]) -> int:
    """Do a job; the exit code is that of the error table."""
    torch.set_num_threads(1)
    os.environ.update(job.get("environ", {}))
    try:
        return _work(job)
    except Sam3ftError as error:
        _say(job, error=type(error).__name__, message=str(error))
        return int(error.code)


def _work(job: dict[str, Any]) -> int:
    exchange = _join(job)
    run = _open(job, exchange)
    targets = {name: torch.full_like(tensor, 7) for name, tensor in state_at(0, job["megabytes"]).items()}
    restored = run.restore(targets)
    first = 0
    if restored is not None:
        first = restored.step
        expected = state_at(first, job["megabytes"])
        if any(not torch.equal(expected[name], targets[name]) for name in expected):
            return WRONG_STATE
    _say(job, resumed=first, message="" if restored is None else restored.message)
    for step in range(first + 1, first + 1 + job["steps"]):
        ticket = run.save(
            state_at(step, job["megabytes"]), CommitMeta(step=step, cursor={"next": step}), wait=step % 2 == 0
        )
        if ticket.wait().state == "committed":
            _say(job, committed=step)
        run.poll()
        time.sleep(job.get("pause_s", 0.0))
    run.close()
    _leave_together(job, exchange)
    return 0


def _leave_together(job: dict[str, Any], exchange: Exchange) -> None:
    """Rank 0 serves the exchange, so it goes last; in a real run the group's barrier sees to that."""
    if job["rank"]:
        exchange.put(f"left{job['rank']}", b"")
        return
    for rank in range(1, job["world_size"]):
        exchange.get(f"left{rank}", timeout_s=20.0)


def _join(job: dict[str, Any]) -> Exchange:
    rank, world_size = job["rank"], job["world_size"]
    return (
        LocalExchange() if world_size == 1 else tcp_exchange("127.0.0.1", job["port"], rank=rank, world_size=world_size)
    )


def _open(job: dict[str, Any], exchange: Exchange) -> RunStore:
    rank, world_size = job["rank"], job["world_size"]
    die = job.get("die")
    store = open_store(job["address"], create=True)
    if die is not None and die.get("kind") != "stage":
        store = Dying(store, job)
    run = open_run_store(
        CheckpointConfig(**{"uri": job["address"], "keep_last": 3, **job.get("checkpoint", {})}),
        IdentityConfig(**job.get("identity", {})),
        RunFacts(
            **{
                "task": "detection",
                "numbers_digest": "n",
                "dataset_digest": "d",
                "model_digest": "m",
                **job.get("facts", {}),
            }
        ),
        rank=rank,
        world_size=world_size,
        exchange=exchange,
        options=StoreOptions(
            outage_s=job.get("outage_s", 1.0),
            peer_timeout_s=job.get("peer_timeout_s", 20.0),
            cache_dir=Path(job["cache"]) if "cache" in job else None,
        ),
        store=store,
    )
    if die is not None and die.get("kind") == "stage":
        _die_staging(run, job)
    return run


def _say(job: dict[str, Any], **words: Any) -> None:
    descriptor = os.open(job["said"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, json.dumps({"rank": job["rank"], **words}).encode() + b"\n")
    os.close(descriptor)


def _nursery() -> None:
    children: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                os._exit(main(request["start"]))
            children.add(pid)
            answer = pid
        else:
            pid = request["reap"]
            answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            children.discard(pid)
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(json.loads(sys.argv[1])))
    _nursery()
