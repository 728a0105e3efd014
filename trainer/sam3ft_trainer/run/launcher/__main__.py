"""`python -m sam3ft_trainer.run.launcher`: run the workers of one node and end with the code that says why."""

import sys
import traceback
from pathlib import Path

from sam3ft_api.errors import Sam3ftError
from sam3ft_api.exit_codes import ExitCode
from sam3ft_api.files import write_last_word
from sam3ft_trainer.run.launcher.commands import Outcome
from sam3ft_trainer.run.launcher.follow import Speaker
from sam3ft_trainer.run.launcher.launch import launch
from sam3ft_trainer.run.launcher.options import parse_options
from sam3ft_trainer.run.launcher.stop_requests import StopRequests

_SPEAK_WITHIN_S = 1.0


def main(argv: list[str] | None = None) -> int:
    """Run the launcher and return its exit code; the termination message is then written."""
    requests = StopRequests()
    options = parse_options(sys.argv[1:] if argv is None else argv)
    speaker = Speaker()
    try:
        outcome = launch(options, requests, speaker)
    except Sam3ftError as error:
        outcome = Outcome(int(error.code), str(error))
    except Exception as error:  # noqa: BLE001 - the process's edge: a defect must end with a report as well
        message = f"the launcher failed: {type(error).__name__}: {error}"
        outcome = Outcome(int(ExitCode.INTERNAL_ERROR), message, traceback=traceback.format_exc())
    _report(outcome, options.termination_log, speaker)
    speaker.end(within_s=_SPEAK_WITHIN_S)
    return outcome.code


def _report(outcome: Outcome, path: Path | None, speaker: Speaker) -> None:
    word = outcome.termination()
    if outcome.traceback:
        speaker.say(
            f"traceback of rank {outcome.rank}:\n{outcome.traceback}" if outcome.rank is not None else outcome.traceback
        )
    speaker.say(f"ends with {word.code} ({word.reason}): {word.message}")
    if path is None:
        return
    try:
        write_last_word(path, word.to_json())
    except OSError as error:
        speaker.say(f"the termination message cannot be written to {path}: {error.strerror}")


if __name__ == "__main__":
    sys.exit(main())
