"""Where in the trainer each phase is: a function, and how it is wrapped.

This table is the only place that knows names of the trainer. Whoever renames one of them changes a line here; until
then every plan that needs the line ends at once with the line's name.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sam3ft_faults.striking import Striker, carry_out

Wrapper = Callable[[Striker, Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Seam:
    """A function of the trainer and what is put around it.

    Attributes:
        module: full name.
        attribute: `function` or `Class.method` in it.
        phases: that are struck there.
        wrap: makes the new function from the old one.
        always: also wrapped when no plan strikes there, because it follows what the process is doing.
    """

    module: str
    attribute: str
    phases: tuple[str, ...]
    wrap: Wrapper
    always: bool = False


def _step(striker: Striker, original: Callable[..., Any]) -> Callable[..., Any]:
    """`Stepper.step(batches, counts, *, step, ...)`."""

    @functools.wraps(original)
    def wrapped(self: Any, batches: Any, *args: Any, step: int, **more: Any) -> Any:
        striker.step = step
        if striker.strike("before_forward", step):
            for batch in batches:
                batch.pixels_I3SS.fill_(float("nan"))
        return original(self, batches, *args, step=step, **more)

    return wrapped


def _compute_loss(striker: Striker, original: Callable[..., Any]) -> Callable[..., Any]:
    """`compute_loss(...) -> output with .total`; the strike is a hook that autograd calls."""

    @functools.wraps(original)
    def wrapped(*args: Any, **more: Any) -> Any:
        output = original(*args, **more)
        if striker.has("backward") and output.total.requires_grad:
            output.total.register_hook(
                lambda gradient: gradient * float("nan") if striker.strike("backward", striker.step) else None
            )
        return output

    return wrapped


def _all_reduce(striker: Striker, original: Callable[..., Any]) -> Callable[..., Any]:
    """`sum_gradients(group, bucket)`, a communication hook: DDP reads its signature, which `wraps` keeps."""

    @functools.wraps(original)
    def wrapped(group: Any, bucket: Any) -> Any:
        if striker.strike("all_reduce", striker.step):
            bucket.buffer().fill_(float("nan"))
        return original(group, bucket)

    return wrapped


def _before(phase: str, step_of: Callable[[Striker, tuple[Any, ...], dict[str, Any]], int]) -> Wrapper:
    """Strike ahead of the call; `step_of` finds the step in its arguments."""

    def wrap(striker: Striker, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapped(*args: Any, **more: Any) -> Any:
            striker.strike(phase, step_of(striker, args, more))
            return original(*args, **more)

        return wrapped

    return wrap


def _save(striker: Striker, original: Callable[..., Any]) -> Callable[..., Any]:
    """`RunStore.save(tensors, meta, ...)`: only says which step the next `stage` belongs to."""

    @functools.wraps(original)
    def wrapped(self: Any, tensors: Any, meta: Any, **more: Any) -> Any:
        striker.saving_step = meta.step
        return original(self, tensors, meta, **more)

    return wrapped


def _upload(striker: Striker, original: Callable[..., Any]) -> Callable[..., Any]:
    """`Saver._upload(job)`: the strike comes within the file that holds byte k of this rank's share.

    What lies before it is written under the file's own name first: as much as the weakest store would leave behind.
    """

    @functools.wraps(original)
    def wrapped(self: Any, job: Any) -> Any:
        step = job.meta.step
        plans = [p for p in striker.plans if p.is_for("upload", rank=striker.rank, step=step)]
        if not plans:
            return original(self, job)
        write, sent = self._write, 0

        def struck(job: Any, name: str, data: Any, group: str) -> Any:
            nonlocal sent
            places = [plan.at_byte - sent for plan in plans if sent <= plan.at_byte < sent + len(data)]
            if places:
                for due in striker.due("upload", step):
                    self._store.put(f"{job.prefix}/{name}", data[: min(places)])
                    carry_out(due)
            sent += len(data)
            return write(job, name, data, group)

        self._write = struck  # one save at a time: nobody else calls it
        try:
            return original(self, job)
        finally:
            del self._write

    return wrapped


def _commit(striker: Striker, original: Callable[..., Any]) -> Callable[..., Any]:
    """`Saver._commit(job, files)`: before and after the one object that makes a save a commit."""

    @functools.wraps(original)
    def wrapped(self: Any, job: Any, files: Any) -> Any:
        striker.strike("before_commit", job.meta.step)
        entry = original(self, job, files)
        striker.strike("after_commit", job.meta.step)
        return entry

    return wrapped


_RUN, _STORE = "sam3ft_trainer.run", "sam3ft_trainer.store"
SEAMS: tuple[Seam, ...] = (
    Seam(f"{_RUN}.step", "Stepper.step", ("before_forward",), _step, always=True),
    Seam(f"{_RUN}.step", "compute_loss", ("backward",), _compute_loss),
    Seam(f"{_RUN}.step", "sum_gradients", ("all_reduce",), _all_reduce),
    Seam(f"{_RUN}.step", "clip_and_check", ("optimizer",), _before("optimizer", lambda s, _, __: s.step)),
    Seam(f"{_RUN}.session", "Session.next_batches", ("data",), _before("data", lambda _, a, __: a[0].state.step)),
    Seam(f"{_STORE}.checkpoint", "RunStore.save", (), _save, always=True),
    Seam(f"{_STORE}.slab", "Slab.stage", ("stage",), _before("stage", lambda s, _, __: s.saving_step)),
    Seam(f"{_STORE}.saver", "Saver._upload", ("upload",), _upload),
    Seam(f"{_STORE}.saver", "Saver._commit", ("before_commit", "after_commit"), _commit),
    Seam(f"{_STORE}.resuming", "Resumer._try", ("restore",), _before("restore", lambda _, a, __: a[1].meta.step)),
    Seam(f"{_RUN}.scoring", "score_split", ("evaluate",), _before("evaluate", lambda _, a, __: a[0].state.step)),
    Seam(f"{_RUN}.handover", "hand_over", ("export",), _before("export", lambda _, __, m: m["step"])),
)
"""Every seam, in the order of a run."""
