"""The one table of exit codes, read by pods' failure policies, SLURM's requeue rule and the local launcher alike."""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """How a run, or one member of it, ended.

    10 to 16 are verdicts about the run and are the user's to act on; 20 to 26 say how the machinery goes on.
    `REGROUP` never leaves a launcher: a worker ends with it so that waiting members can join.
    """

    SUCCEEDED = 0
    INTERNAL_ERROR = 1
    INVALID_CONFIG = 10
    INVALID_DATASET = 11
    MODEL_UNUSABLE = 12
    STORAGE_DENIED = 13
    CHECKPOINT_INCOMPATIBLE = 14
    NON_FINITE_LOSS = 15
    OUT_OF_MEMORY = 16
    INTERRUPTED = 20
    FENCED = 21
    STORAGE_UNAVAILABLE = 22
    PEER_LOST = 23
    HUNG = 24
    REGROUP = 26
    KILLED = 137
    TERMINATED = 143


@dataclass(frozen=True, slots=True)
class ExitRule:
    """What follows from one exit code.

    Attributes:
        reason: CamelCase word for conditions, events and termination messages.
        is_verdict: every member of the run ends with this code; trying again cannot help.
        retry: a fresh attempt from the newest commit is worth making.
        counts: the retry is charged against `failurePolicy.maxRestarts`.
        advice: one sentence for the user.
    """

    reason: str
    is_verdict: bool
    retry: bool
    counts: bool
    advice: str


EXIT_RULES: dict[ExitCode, ExitRule] = {
    ExitCode.SUCCEEDED: ExitRule("Succeeded", False, False, False, "The run is complete."),
    ExitCode.INTERNAL_ERROR: ExitRule(
        "InternalError", False, True, True, "An unexpected error; the log of the failing rank has its traceback."
    ),
    ExitCode.INVALID_CONFIG: ExitRule(
        "InvalidConfig", True, False, False, "Correct the settings named in the message."
    ),
    ExitCode.INVALID_DATASET: ExitRule(
        "InvalidDataset", True, False, False, "Correct the images or annotations named in the message."
    ),
    ExitCode.MODEL_UNUSABLE: ExitRule(
        "ModelUnusable", True, False, False, "Point model.uri at a complete SAM 3 folder."
    ),
    ExitCode.STORAGE_DENIED: ExitRule(
        "StorageDenied", True, False, False, "Check the address, the credentials and their permissions."
    ),
    ExitCode.CHECKPOINT_INCOMPATIBLE: ExitRule(
        "CheckpointIncompatible",
        True,
        False,
        False,
        "Use another checkpoint prefix, or checkpoint.adopt: true to take this one over.",
    ),
    ExitCode.NON_FINITE_LOSS: ExitRule(
        "NonFiniteLoss", True, False, False, "Lower the learning rate, or look at the saved bundles of bad steps."
    ),
    ExitCode.OUT_OF_MEMORY: ExitRule(
        "OutOfMemory", True, False, False, "Lower the resolution, freeze parts, or take a larger device."
    ),
    ExitCode.INTERRUPTED: ExitRule("Interrupted", False, True, False, "Asked to stop; a checkpoint is committed."),
    ExitCode.FENCED: ExitRule("Fenced", False, False, False, "Another incarnation owns the run; this one ended alone."),
    ExitCode.STORAGE_UNAVAILABLE: ExitRule(
        "StorageUnavailable", False, True, False, "The object store did not answer for the whole outage budget."
    ),
    ExitCode.PEER_LOST: ExitRule("PeerLost", False, True, False, "A peer went away; the group forms again."),
    ExitCode.HUNG: ExitRule("Hung", False, True, True, "No progress for too long; stacks of all threads are saved."),
    ExitCode.REGROUP: ExitRule("Regroup", False, True, False, "The group forms again with those who wait to join."),
    ExitCode.KILLED: ExitRule("Killed", False, True, True, "Killed by the system, most often for lack of host memory."),
    ExitCode.TERMINATED: ExitRule("Terminated", False, True, False, "Ended by a signal before it could save."),
}
"""Rules for every member of `ExitCode`; a test proves that none is missing."""


def rule_for(code: int) -> ExitRule:
    """Return the rule of any process exit code; unknown codes are treated as an internal error.

    Args:
        code: exit status as a shell sees it; a negative number is a signal as `subprocess` reports it.
    """
    shell_code = 128 - code if code < 0 else code
    try:
        return EXIT_RULES[ExitCode(shell_code)]
    except ValueError:
        return EXIT_RULES[ExitCode.INTERNAL_ERROR]
