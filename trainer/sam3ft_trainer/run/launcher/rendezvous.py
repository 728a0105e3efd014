"""The entry point `torchrun.handlers: sam3ft`, so that `torchrun --rdzv-backend=sam3ft` meets at our coordinator.

torch loads this module while it is itself being imported; therefore nothing of torch is imported at the top.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous.api import RendezvousHandler, RendezvousParameters

BACKEND = "sam3ft"


def create_handler() -> "Callable[[RendezvousParameters], RendezvousHandler]":
    """Return the function that torch's registry calls for each launch with `--rdzv-backend=sam3ft`.

    The coordinator's address is `--rdzv-endpoint`, its token stands in SAM3FT_TOKEN; `--rdzv-conf` takes `node`,
    `slot` and `attempt` (defaults: the host's name, 0, 1).
    """

    def create(parameters: "RendezvousParameters") -> "RendezvousHandler":
        from sam3ft_trainer.run.launcher.torchrun import TorchrunRendezvous  # noqa: PLC0415 - see the module's text

        return TorchrunRendezvous.connect(parameters)

    return create
