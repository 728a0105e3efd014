"""From settings to a session: join the group, read data and weights, claim the run, restore the newest commit.

The order matters: whatever can refuse the run comes before the claim, and the claim before anything is overwritten.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import torch
from torch import distributed as dist

from sam3ft_api.errors import InvalidConfig, ModelUnusable
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.training import TrainingConfig
from sam3ft_trainer.data.order import steps_per_epoch
from sam3ft_trainer.data.pipeline import TrainLoader, decode_threads
from sam3ft_trainer.evaluate.report.build import CONFIG, DATASET
from sam3ft_trainer.model.compiling import LayerCompiler, keep_compiled_in, why_not_compiled
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.run import machine
from sam3ft_trainer.run.chronicle import LAST_ACT_S, Chronicle
from sam3ft_trainer.run.events import EVENTS_FILE, Reporter, RunReporter, Silent
from sam3ft_trainer.run.facts import run_facts
from sam3ft_trainer.run.flags import FlagReader
from sam3ft_trainer.run.foundation import Foundation, lay_foundation
from sam3ft_trainer.run.gpu_watch import CannotWatch, GpuWatch
from sam3ft_trainer.run.group import Group, join_group
from sam3ft_trainer.run.horizon import planned_steps
from sam3ft_trainer.run.meter import Meter
from sam3ft_trainer.run.micro_batch import choose_micro_batch
from sam3ft_trainer.run.pace import gpu_peak
from sam3ft_trainer.run.prefetch import DeviceFeed
from sam3ft_trainer.run.selection import Selection
from sam3ft_trainer.run.session import Session
from sam3ft_trainer.run.sinks.sinks import CLOSE_S, open_sinks
from sam3ft_trainer.run.spans import Spans
from sam3ft_trainer.run.state import LoopState
from sam3ft_trainer.run.step import Stepper
from sam3ft_trainer.run.stopping import tell_short_grace
from sam3ft_trainer.run.tensors import all_tensors
from sam3ft_trainer.run.text import CachedText, LiveText, TextSource
from sam3ft_trainer.run.watchdog import Watchdog
from sam3ft_trainer.run.worker import LastWord, WorkerEnvironment, classify
from sam3ft_trainer.store.access import run_access
from sam3ft_trainer.store.checkpoint import RunStore, open_run_store
from sam3ft_trainer.store.exchange import Exchange, LocalExchange, TorchExchange
from sam3ft_trainer.store.kept_report import Keeping
from sam3ft_trainer.store.opening import StoreOptions

HURRY_S = 0.25
"""What an end that was asked for waits for curves, and for the log to be kept; its save has been waited for."""


@contextmanager
def open_session(config: TrainingConfig, environment: WorkerEnvironment, last_word: LastWord) -> Iterator[Session]:
    """Build everything, restore the newest commit, and close it all again, whatever happens.

    Raises:
        Sam3ftError: anything that keeps the run from starting, with its exit code.
    """
    if environment.world_size > config.scratch.train_batch_size:
        raise InvalidConfig(
            f"{environment.world_size} processes share a global batch of {config.scratch.train_batch_size} images, so "
            "some would never get one; start fewer processes or raise the batch size"
        )
    with ExitStack() as stack:
        log_start = _size(environment.work_dir / EVENTS_FILE)
        reporter = _open_reporter(config, environment)
        stack.callback(reporter.close)
        watchdog = _open_watchdog(config, environment, last_word)
        stack.callback(watchdog.close)
        device = machine.select_device(config.runtime.device, local_rank=environment.local_rank)
        group = join_group(device)
        stack.callback(group.close)
        # Before the group: its end makes the peers fail, and from then on this rank's own end may not wait for anybody.
        stack.callback(lambda: reporter.close_sinks(_patience_s(environment, CLOSE_S)))
        foundation = lay_foundation(config, device=device, group=group, reporter=reporter, beat=watchdog.beat)
        refuse_different_weights(group, foundation.loaded.digest, uri=config.model.uri)
        store = _claim(config, environment, foundation)
        stack.callback(store.close)
        last_word.claimed(store.objects)
        state = _restore(config, environment, foundation, store)
        last_word.micro_batch, last_word.checkpoint_step = state.micro_batch, store.newest_step
        last_word.step = state.step
        run = _assemble(config, environment, last_word, foundation, store, state, watchdog, stack)
        if group.rank == 0 and not run.is_complete:
            chronicle = run.chronicle = _open_chronicle(config, environment, foundation, store, log_start=log_start)
            stack.callback(lambda: chronicle.close(_patience_s(environment, LAST_ACT_S)))
        try:
            yield run
        except BaseException as error:
            last_word.write(*classify(error))  # whatever closing takes, and whoever ends this process meanwhile
            raise


def refuse_different_weights(group: Group, digest: str, *, uri: str) -> None:
    """Make sure that all ranks begin with the same weights; a collective.

    Later steps only add equal changes, so ranks that began apart stay apart, and nothing else would notice.

    Args:
        group: of the round.
        digest: of the weights that this rank has loaded.
        uri: where they come from.

    Raises:
        ModelUnusable: on every rank, when one of them has others.
    """
    digests: list[str] = group.broadcast(group.gather(digest))
    apart = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if apart:
        raise ModelUnusable(
            f"the initial weights at {uri} are not the same for all: rank 0 has loaded {digests[0][:16]}, "
            f"rank {apart[0]} {digests[apart[0]][:16]}; put the same files on every node, and let nobody replace them "
            "while a run starts"
        )


def _open_reporter(config: TrainingConfig, environment: WorkerEnvironment) -> Reporter:
    if environment.rank != 0:
        return Silent()
    return RunReporter(
        environment.work_dir,
        run=config.identity.name,
        attempt=environment.attempt,
        tensorboard=config.runtime.tensorboard,
        sinks=open_sinks(config, work_dir=environment.work_dir, attempt=environment.attempt, environ=os.environ),
    )


def _open_watchdog(config: TrainingConfig, environment: WorkerEnvironment, last_word: LastWord) -> Watchdog:
    return Watchdog(
        config.runtime.watchdog_s,
        environment.work_dir / f"stacks-rank-{environment.rank}.txt",
        lambda message: last_word.write(ExitCode.HUNG, message),
    )


def _claim(config: TrainingConfig, environment: WorkerEnvironment, foundation: Foundation) -> RunStore:
    exchange: Exchange = LocalExchange()
    if foundation.group.world_size > 1:
        # The group's own store: rank 0 serves it already, and every round has a new one.
        exchange = TorchExchange(dist.distributed_c10d._get_default_store())  # noqa: SLF001 - torch has no public name
    return open_run_store(
        config.checkpoint,
        config.identity,
        run_facts(config, foundation.loaded, foundation.datasets, attempt=environment.attempt),
        rank=environment.rank,
        world_size=foundation.group.world_size,
        exchange=exchange,
        options=StoreOptions(
            best_metric=config.evaluation.metric,
            outage_s=config.runtime.outage_s,
            cache_dir=environment.cache_dir,
            access=run_access(config.storage, os.environ),
        ),
    )


def _restore(
    config: TrainingConfig, environment: WorkerEnvironment, foundation: Foundation, store: RunStore
) -> LoopState:
    """Load the newest commit, or describe a fresh start; set the threads that the run has from now on."""
    num_images = len(foundation.datasets["train"])
    scratch = config.scratch
    planned = planned_steps(scratch, num_images)
    tensors = all_tensors(foundation.loaded.sam3, foundation.optimizer, foundation.ema)
    group = foundation.group
    restored = store.restore(tensors, broadcast=group.broadcast_tensor if group.world_size > 1 else None)
    before = None if restored is None else LoopState.model_validate(restored.meta.extra)
    micro_batch = choose_micro_batch(
        wanted=config.runtime.micro_batch,
        committed=None if before is None else before.micro_batch,
        fits=foundation.memory.micro_batch,
        upper_bound=environment.micro_batch_max,
        batch_size=scratch.train_batch_size,
        world_size=foundation.group.world_size,
    )
    threads = machine.settle(
        foundation.device,
        config.runtime,
        precision=scratch.precision,
        committed_threads=None if before is None else before.threads,
    )
    present = {"micro_batch": micro_batch, "threads": threads, "world_size": foundation.group.world_size}
    if before is None or restored is None:
        foundation.reporter.event("started", total_steps=planned, **present)
        return LoopState(total_steps=planned, selection=Selection(metric=config.evaluation.metric), **present)
    if restored.dataset_changed:
        # The images are others now: the epoch in progress starts again, and no image of the new set is passed over.
        present |= {"cursor": int(restored.meta.epoch) * num_images}
    state = before.model_copy(update=present if before.horizon_fixed else present | {"total_steps": planned})
    tell_short_grace(foundation.reporter, grace_s=environment.eviction_grace_s, save_s=before.save_s)
    store.expect(None if before.save_s is None else before.save_s * before.world_size / group.world_size)
    foundation.reporter.event(
        "resumed",
        step=state.step,
        from_step=state.step,
        seq=restored.seq,
        epoch=restored.meta.epoch,
        total_steps=state.total_steps,
        world_size_before=before.world_size,
        message=restored.message,
        **present,
    )
    return state


def _assemble(
    config: TrainingConfig,
    environment: WorkerEnvironment,
    last_word: LastWord,
    foundation: Foundation,
    store: RunStore,
    state: LoopState,
    watchdog: Watchdog,
    stack: ExitStack,
) -> Session:
    loaded, device, group = foundation.loaded, foundation.device, foundation.group
    compiler = _layer_compiler(config, environment, foundation)
    checkpointed = foundation.memory.checkpointed
    model = TrainingModel(loaded.sam3, config.model, checkpointed=checkpointed, compiler=compiler)
    model.train()
    text: TextSource = LiveText(model, loaded.tokenizer, device)
    if foundation.phrase_cache is not None:
        text = CachedText(foundation.phrase_cache, device)
    spans = Spans()
    stepper = Stepper(
        model,
        foundation.optimizer,
        config,
        device=device,
        world_size=group.world_size,
        spans=spans,
        loss_scale=state.loss_scale,
    )
    loader = TrainLoader(
        foundation.datasets["train"],
        config,
        micro_batch=state.micro_batch,
        rank=group.rank,
        world_size=group.world_size,
        cursor=state.cursor,
        threads=decode_threads(config, processes_here=machine.processes_here()),
    )
    stack.callback(loader.close)
    return Session(
        config=config,
        environment=environment,
        last_word=last_word,
        foundation=foundation,
        watchdog=watchdog,
        spans=spans,
        meter=_meter(config, foundation, stack),
        model=model,
        text=text,
        stepper=stepper,
        feed=DeviceFeed(device, text.inputs),
        batches=iter(loader),
        store=store,
        flags=FlagReader(environment.flag_file),
        state=state,
        steps_per_epoch=steps_per_epoch(len(foundation.datasets["train"]), config.scratch.train_batch_size),
        is_complete=bool(group.broadcast(store.finished() is not None if group.rank == 0 else None)),
        trace_file=_open_trace(config, environment, stack),
    )


def _meter(config: TrainingConfig, foundation: Foundation, stack: ExitStack) -> Meter:
    device = foundation.device
    watch = _watch_gpu(device, foundation.reporter, stack)
    return Meter(device=device, ideal_image_s=_ideal_image_s(config, foundation), watch=watch)


def _ideal_image_s(config: TrainingConfig, foundation: Foundation) -> float | None:
    """Return the seconds that an image takes at the peak of the device; None on the CPU and on unknown devices."""
    if foundation.device.type != "cuda":
        return None
    peak = gpu_peak(torch.cuda.get_device_name(foundation.device), config.scratch.precision)
    memory = foundation.memory
    return None if peak is None else memory.plan.flops.total / memory.micro_batch / peak


def _watch_gpu(device: torch.device, reporter: Reporter, stack: ExitStack) -> GpuWatch | None:
    """Watch the device of this rank; None on the CPU, and, with an event, where that is not possible."""
    if device.type != "cuda":
        return None
    try:
        watch = GpuWatch.of(device)
    except CannotWatch as reason:
        reporter.event("gpu_not_watched", message=str(reason))
        return None
    stack.callback(watch.close)
    return watch


def _layer_compiler(
    config: TrainingConfig, environment: WorkerEnvironment, foundation: Foundation
) -> LayerCompiler | None:
    """Return what compiles the model's layers, None where nothing is compiled; the log says which, and why."""
    wanted, tell = config.runtime.compile, foundation.reporter.event
    reason = why_not_compiled(wanted, foundation.device)
    tell("layers", compiled=not reason, message=reason)
    if reason:
        return None
    keep_compiled_in(environment.work_dir / "compiled")

    def tell_failure(message: str) -> None:
        tell("layers", compiled=False, message=message)

    return LayerCompiler(on_failure=None if wanted == "always" else tell_failure)


def _open_chronicle(
    config: TrainingConfig, environment: WorkerEnvironment, foundation: Foundation, store: RunStore, *, log_start: int
) -> Chronicle:
    def keep_what_it_was_told(keeping: Keeping) -> None:
        reports = {split: dataset.report.to_json() for split, dataset in foundation.datasets.items()}
        keeping.keep(CONFIG, config.model_dump_json(indent=1).encode())
        keeping.keep(DATASET, json.dumps(reports).encode())

    keeping = Keeping(store.objects, environment.work_dir / EVENTS_FILE, store.generation, log_start)
    return Chronicle(keeping, store.tell, before=keep_what_it_was_told)


def _patience_s(environment: WorkerEnvironment, usual_s: float) -> float:
    """Return how long the end may wait for others: hardly, once the launcher has asked for it."""
    return usual_s if FlagReader(environment.flag_file).poll() is None else HURRY_S


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open_trace(config: TrainingConfig, environment: WorkerEnvironment, stack: ExitStack) -> TextIO | None:
    if not config.runtime.trace_samples:
        return None
    path = environment.work_dir / f"samples-rank-{environment.rank}.jsonl"
    return stack.enter_context(path.open("a", buffering=1))
