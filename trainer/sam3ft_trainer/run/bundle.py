"""What is kept of an update that was skipped: enough to look at the images that caused it."""

import json
from pathlib import Path

from sam3ft_api.files import write_atomically
from sam3ft_trainer.run.step import StepNumbers, StepResult


def write_bundle(work_dir: Path, rank: int, result: StepResult, numbers: StepNumbers) -> Path:
    """Write image ids, phrases, loss terms and norm of this rank's share of a skipped step.

    Returns:
        The file, `non_finite/step-NNNNNNNN-rank-R.json` in the work folder; non-finite numbers stand as strings.
    """
    folder = work_dir / "non_finite"
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{result.step:08d}-rank-{rank}.json"
    document = {
        "step": result.step,
        "rank": rank,
        "loss": str(numbers.loss),
        "grad_norm": str(numbers.grad_norm),
        "image_ids": list(result.image_ids),
        "phrases": list(result.phrases),
        "terms": {name: str(value) for name, value in numbers.terms.items()},
    }
    write_atomically(path, json.dumps(document, indent=2))
    return path
