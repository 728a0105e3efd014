"""The rendezvous handler of our own launcher: the round is known before torch's agent asks for it."""

from torch._C._distributed_c10d import HashStore
from torch.distributed.elastic.rendezvous.api import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from sam3ft_api.messages import Round
from sam3ft_trainer.run.launcher.rendezvous import BACKEND


class PlacedRendezvous(RendezvousHandler):
    """Hands the agent the round that the coordinator has announced; never blocks.

    Workers meet at the address in the round, where rank 0 opens the store of the process group; the agent's own store
    is a dictionary in memory, because agents have nothing to tell each other.
    """

    def __init__(self, run_id: str) -> None:
        """Begin without a round.

        Args:
            run_id: TORCHELASTIC_RUN_ID of the workers.
        """
        self._run_id = run_id
        self._round: Round | None = None

    def place(self, round_: Round) -> None:
        """Set the round that `next_rendezvous` returns."""
        self._round = round_

    @property
    def present(self) -> Round:
        """The round that was set.

        Raises:
            RuntimeError: none was set.
        """
        if self._round is None:
            raise RuntimeError("the agent asks for a round before the coordinator has announced one")
        return self._round

    def get_backend(self) -> str:
        """Return `sam3ft`."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Return this node's place in the round.

        Raises:
            RuntimeError: no round was set.
        """
        round_ = self.present
        meeting = RendezvousStoreInfo(round_.master_addr, round_.master_port)
        return RendezvousInfo(HashStore(), round_.node_rank, len(round_.members), meeting)

    def is_closed(self) -> bool:
        """Return False: ends are the conductor's to decide."""
        return False

    def set_closed(self) -> None:
        """Do nothing: ends are the conductor's to decide."""

    def num_nodes_waiting(self) -> int:
        """Return 0: the conductor raises the workers' flag when somebody waits."""
        return 0

    def get_run_id(self) -> str:
        """Return the identity of the run."""
        return self._run_id

    def shutdown(self) -> bool:
        """Return True: there is nothing to close."""
        return True
