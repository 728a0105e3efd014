"""The entry of `sam3ft`: the list of verbs, and the process edge that turns every error into one message and a code."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from sam3ft_api.errors import InvalidConfig, Sam3ftError
from sam3ft_launch.cli import (
    cancel,
    change,
    doctor,
    evaluate,
    explain,
    export,
    logs,
    model,
    plan,
    report,
    run,
    slurm_agent,
    status,
    train,
    version,
)
from sam3ft_launch.cli.options import ENV_BACKEND, BackendName
from sam3ft_launch.cli.output import OutputFormat, report_error
from sam3ft_launch.cli.trainer import TrainerHasSpoken

_INTERRUPTED_BY_USER = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="sam3ft",
    help="Fine-tune SAM 3 on your own images: one YAML file for one machine, Kubernetes or SLURM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}
"""For verbs that hand words over to the trainer as they are."""

_VERBS: tuple[tuple[str, Callable[..., Any], dict[str, Any]], ...] = (
    ("run", run.run, {}),
    ("plan", plan.plan, {}),
    ("status", status.status, {}),
    ("logs", logs.logs, {}),
    ("report", report.report, {}),
    ("explain", explain.explain, {}),
    ("events", change.events, {}),
    ("scale", change.scale, {}),
    ("suspend", change.suspend, {}),
    ("resume", change.resume, {}),
    ("retry", change.retry, {}),
    ("cancel", cancel.cancel, {}),
    ("eval", evaluate.evaluate, _PASS_ON),
    ("export", export.export, _PASS_ON),
    ("doctor", doctor.doctor, {}),
    ("train", train.train, _PASS_ON),
    ("version", version.version, {}),
)
for _name, _verb, _settings in _VERBS:
    app.command(_name, context_settings=_settings)(_verb)
app.add_typer(model.app, name="model")
app.add_typer(slurm_agent.app, name="slurm-agent")


def plugin() -> int:
    """Run one command as `kubectl sam3ft`: the same verbs, on a cluster unless another backend is named."""
    os.environ.setdefault(ENV_BACKEND, BackendName.KUBERNETES)
    return main(program="kubectl sam3ft")


def main(arguments: Sequence[str] | None = None, *, program: str = "sam3ft") -> int:
    """Run one command and return its exit code: the table of `sam3ft_api.exit_codes` throughout, 130 for Ctrl-C.

    Args:
        arguments: words behind `sam3ft`; the process's own without them.
        program: what the help calls this command.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(app(args=words, prog_name=program, standalone_mode=False) or 0)
    except (TrainerHasSpoken, typer.Exit) as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED_BY_USER
    except Exception as error:  # noqa: BLE001 - the process edge: whatever is left is a defect of sam3ft
        return report_error(_for_people(error, words), output=_output_of(words))


def _for_people(error: Exception, words: Sequence[str]) -> Sam3ftError:
    if isinstance(error, Sam3ftError):
        return error
    if isinstance(error, TyperException):
        verb = f"sam3ft {words[0]}" if words and words[0].isalpha() else "sam3ft"
        return InvalidConfig(f"{error.format_message()}; see `{verb} --help`")
    return _internal(error, words)


def _output_of(words: Sequence[str]) -> OutputFormat:
    """Return the format asked for; read from the words, because an error may come before they are understood."""
    wants_json = any(
        word in ("-ojson", "--output=json") or (word in ("-o", "--output") and value == "json")
        for word, value in zip(words, [*words[1:], ""], strict=True)
    )
    return OutputFormat.JSON if wants_json else OutputFormat.TEXT


def _internal(error: Exception, words: Sequence[str]) -> Sam3ftError:
    with tempfile.NamedTemporaryFile("w", prefix="sam3ft-", suffix=".log", delete=False) as stream:
        stream.write(f"sam3ft {' '.join(words)}\n{''.join(traceback.format_exception(error))}")
    return Sam3ftError(f"unexpected {type(error).__name__}: {error}; the traceback is in {Path(stream.name)}")
