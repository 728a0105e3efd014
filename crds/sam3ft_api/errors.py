"""The exception tree: every error that ends a run knows its exit code.

    Sam3ftError
    +-- UserError                     the user's to fix; never retried, never shown with a traceback
    |   +-- InvalidConfig             10
    |   +-- InvalidDataset            11
    |   +-- ModelUnusable             12
    |   +-- StorageDenied             13
    |   +-- CheckpointIncompatible    14
    |   +-- NonFiniteLoss             15
    |   +-- DeviceOutOfMemory         16
    +-- Interrupted                   20
    +-- Fenced                        21
    +-- StorageUnavailable            22
    +-- PeerLost                      23
    +-- Hung                          24
    +-- Regroup                       26
    +-- Unsaved                       143

Anything else that escapes is a defect of sam3ft: exit code 1, with its traceback.
"""

from typing import ClassVar

from sam3ft_api.exit_codes import ExitCode


class Sam3ftError(Exception):
    """An end of the run with a known meaning; the message says what failed, the value, what is allowed, what to do."""

    code: ClassVar[ExitCode] = ExitCode.INTERNAL_ERROR


class UserError(Sam3ftError):
    """Only the user can mend this; trying again cannot help."""


class InvalidConfig(UserError):
    """A setting is unknown, out of range or contradicts another."""

    code = ExitCode.INVALID_CONFIG


class InvalidDataset(UserError):
    """Images or annotations cannot be trained on as they are."""

    code = ExitCode.INVALID_DATASET


class ModelUnusable(UserError):
    """The model folder is incomplete, of another kind, or not readable as safetensors."""

    code = ExitCode.MODEL_UNUSABLE


class StorageDenied(UserError):
    """The store refused access, does not exist, or has no room."""

    code = ExitCode.STORAGE_DENIED


class CheckpointIncompatible(UserError):
    """The checkpoint prefix belongs to another run, or holds another model, task or digest."""

    code = ExitCode.CHECKPOINT_INCOMPATIBLE


class NonFiniteLoss(UserError):
    """More non-finite steps than the budget allows."""

    code = ExitCode.NON_FINITE_LOSS


class DeviceOutOfMemory(UserError):
    """Even a micro-batch of one image does not fit the device."""

    code = ExitCode.OUT_OF_MEMORY


class Interrupted(Sam3ftError):
    """Asked to stop; the state is committed."""

    code = ExitCode.INTERRUPTED


class Fenced(Sam3ftError):
    """Another incarnation has claimed the run; this one must stop and delete nothing."""

    code = ExitCode.FENCED


class StorageUnavailable(Sam3ftError):
    """The store did not answer for the whole outage budget."""

    code = ExitCode.STORAGE_UNAVAILABLE


class PeerLost(Sam3ftError):
    """A collective failed because another rank went away."""

    code = ExitCode.PEER_LOST


class Hung(Sam3ftError):
    """No step ended within the watchdog's time."""

    code = ExitCode.HUNG


class Regroup(Sam3ftError):
    """The state is committed and waiting members may join now."""

    code = ExitCode.REGROUP


class Unsaved(Sam3ftError):
    """Asked to stop, with too little time left to save; the newest commit is an earlier one."""

    code = ExitCode.TERMINATED
