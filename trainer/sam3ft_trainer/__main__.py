"""The trainer's own commands: `python -m sam3ft_trainer VERB ...`. People use `sam3ft`, which starts these."""

import argparse
import importlib
import os
import sys

from sam3ft_trainer.imports import without_collection
from sam3ft_trainer.run.environment import CPU_ENVIRONMENT

VERBS = {
    "check": "check data, model, storage and memory before any training step",
    "plan": "print what a run would do: updates, memory by part, FLOPs, time",
    "compose": "print the config document that Hydra overrides make",
    "train": "train in this process from Hydra overrides, without a launcher",
    "eval": "score an exported model folder or the newest commit on a split",
    "export": "write the model of a commit as a Hugging Face folder",
    "report": "write one page about a run from what lies in its work folder",
    "doctor": "say what this machine has for training, or what a store can do",
    "tails": "print the last lines of ranks that failed, kept beside a run's checkpoints",
    "keep": "keep what runs on a SLURM site say beside their checkpoints; agents start it",
    "lines": "print what a run on a SLURM site has said, kept beside its checkpoints",
    "fetch": "copy published weights into a folder or a bucket",
}


def main() -> int:
    """Parse the verb, load only its module, run it behind the process edge and return the exit code."""
    # Before torch is imported anywhere: without these, repeated CPU runs differ in their last bits.
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    parser = argparse.ArgumentParser(prog="python -m sam3ft_trainer", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    for name, help_text in VERBS.items():
        subparser = verbs.add_parser(name, help=help_text, description=help_text)
        if name == wanted:
            # Only the wanted verb is imported: most of them load torch, which takes seconds.
            with without_collection():
                module = importlib.import_module(f"sam3ft_trainer.commands.{name}")
            module.configure(subparser)
    arguments = parser.parse_args()
    from sam3ft_trainer.commands.edge import guarded  # noqa: PLC0415 - after the environment is settled

    module = importlib.import_module(f"sam3ft_trainer.commands.{arguments.verb}")
    return guarded(module.run, arguments)


if __name__ == "__main__":
    sys.exit(main())
