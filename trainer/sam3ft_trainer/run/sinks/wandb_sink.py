"""Curves to Weights & Biases: one run of theirs for a run of ours, whatever its attempts."""

from typing import Any

from sam3ft_trainer.imports import without_collection
from sam3ft_trainer.run.sinks.sink import Point, SinkContext, SinkUnusable

STEP = "step"
"""Name of the value that is the x axis of all others: after a resume steps come again, and their own counter would
refuse to go back."""
INIT_TIMEOUT_S = 30.0
"""How long one try to find or make the run may take."""
FINISH_TIMEOUT_S = 30
"""How long their program uploads after the run has ended; a run waits less, and only a bare process that long."""


class WandbSink:
    """Hands values to the library's own program, which writes them to the folder and uploads them by itself."""

    def __init__(self) -> None:
        """Hold no run yet."""
        self._run: Any = None

    def open(self, context: SinkContext) -> None:
        """Find the run by its id or make it; nothing but curves and settings is collected.

        Raises:
            SinkUnusable: the library is missing, or there is no key.
            Exception: no answer.
        """
        try:
            with without_collection():
                import wandb  # noqa: PLC0415 - an extra, and half a second
        except ImportError as error:
            raise SinkUnusable(
                f"wandb cannot be imported ({error}); install it with: pip install 'sam3ft[wandb]'"
            ) from error
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            disable_job_creation=True,
            silent=True,
            host="",
            program="",
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        try:
            run = wandb.init(
                project=context.project,
                id=context.key,
                name=context.run,
                dir=context.folder,
                resume="allow",
                settings=settings,
            )
        except wandb.errors.UsageError as error:
            raise SinkUnusable(f"{error}; set WANDB_API_KEY, or WANDB_MODE=offline to keep the curves here") from error
        except BaseException:
            # Its program holds on to the run that it could not begin, and would refuse the next try: begin without it.
            wandb.teardown()
            raise
        settings_told: Any = run.config
        settings_told.update(
            {**context.settings, "uid": context.uid, "attempt": context.attempt}, allow_val_change=True
        )
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)
        self._run = run

    def scalars(self, point: Point) -> None:
        """Write the values into the library's log; it uploads them when it can, and keeps them until then."""
        self._run.log({STEP: point.step, **point.values})

    def close(self, *, is_complete: bool) -> None:
        """Wait until everything is uploaded; with `is_complete` the run is shown as finished, else as failed."""
        self._run.finish(exit_code=0 if is_complete else 1)
