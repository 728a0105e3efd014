"""The end of a run in a few lines: how it ended, its scores, and where everything is."""

import json
from pathlib import Path
from typing import Any

from sam3ft_api.exit_codes import ExitCode, rule_for
from sam3ft_launch.backend import Observed, RunState
from sam3ft_launch.cli.scores import FinalScores, read_scores, score_lines
from sam3ft_launch.folder.last_word import read_last_word
from sam3ft_launch.folder.rundir import RunDir


def places(folder: RunDir) -> dict[str, str]:
    """Return where a run's files are, by name; only what exists, and addresses of stores as the config has them."""
    config = _config(folder)
    checkpoints = str(config.get("checkpoint", {}).get("uri") or folder.checkpoints)
    model = str(config.get("export", {}).get("uri") or folder.model)
    found = {"report": folder.report, "log": folder.log}
    shown = {name: str(path) for name, path in found.items() if path.exists()}
    shown |= {name: uri for name, uri in (("checkpoints", checkpoints), ("model", model)) if _may_exist(uri)}
    return {"folder": str(folder.root), **shown}


def ending(folder: RunDir, observed: Observed) -> dict[str, Any]:
    """Return how a run ended, as JSON values: state, code, reason, message, scores, places."""
    code = exit_code_of(observed)
    rule = rule_for(code)
    progress = observed.progress
    word = read_last_word(folder.last_word)
    scores = read_scores(folder.scores) if observed.state is RunState.SUCCEEDED else None
    return {
        "state": str(observed.state),
        "code": code,
        "reason": observed.reason or rule.reason,
        "message": observed.message or rule.advice,
        "advice": rule.advice,
        "step": progress.step if progress else 0,
        "metrics": (word.metrics if word else {}) or (progress.metrics if progress else {}),
        "scores": scores.model_dump() if scores else None,
        "failed_rank": word.rank if word else None,
        "places": places(folder),
    }


def exit_code_of(observed: Observed) -> int:
    """Return the code of `sam3ft run`: the run's own, or 137 when its supervisor was killed."""
    return observed.exit_code if observed.exit_code is not None else int(ExitCode.KILLED)


def ending_lines(name: str, end: dict[str, Any]) -> list[str]:
    """Return the same for people."""
    lines = [_headline(name, end)]
    if end["scores"]:
        lines += score_lines(FinalScores.model_validate(end["scores"]))
    lines += [f"  {what:<12} {where}" for what, where in end["places"].items()]
    if end["state"] in (RunState.INTERRUPTED, RunState.GONE):
        lines.append("  the same command goes on from the newest checkpoint")
    return lines


def _headline(name: str, end: dict[str, Any]) -> str:
    if end["state"] == RunState.SUCCEEDED:
        return f"{name} is complete after {end['step']} steps"
    rank = "" if end["failed_rank"] is None else f", rank {end['failed_rank']} failed first"
    advice = "" if end["advice"] in end["message"] else f"\n  {end['advice']}"
    return f"{name} ended with {end['reason']} (code {end['code']}{rank}): {end['message']}{advice}"


def _config(folder: RunDir) -> dict[str, Any]:
    try:
        config = json.loads(folder.config.read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _may_exist(uri: str) -> bool:
    return "://" in uri or Path(uri).exists()
