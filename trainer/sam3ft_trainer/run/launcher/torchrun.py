"""The rendezvous handler for plain torchrun: stock agents meet at our coordinator instead of a c10d store."""

import os
import queue
import re
import socket
import time
import uuid
from datetime import timedelta

from pydantic import ValidationError
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.constants import default_pg_timeout
from torch.distributed.elastic.rendezvous.api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)

from sam3ft_api.errors import InvalidConfig
from sam3ft_api.messages import Complete, CoordinatorMessage, Leave, Ready, Refused, Regroup, Round, Stop, Verdict
from sam3ft_api.tokens import take_token
from sam3ft_trainer.run.launcher.commands import Standing
from sam3ft_trainer.run.launcher.link import Identity, Link
from sam3ft_trainer.run.launcher.rendezvous import BACKEND

_POLL_S = 0.1
_REFUSED_S = 10.0
_STORE_S = 60.0


class TorchrunRendezvous(RendezvousHandler):
    """One node's side of the coordinator, for torch's stock agent.

    Every node opens a store before it says that it is ready; the one of rank 0's node serves the round, for the agents
    as well as for the workers, and its port was never free in between.
    """

    def __init__(self, link: Link, *, run_id: str, address: str) -> None:
        """Begin without a round.

        Args:
            link: to the coordinator, started.
            run_id: identity of the run.
            address: where other nodes reach this one.
        """
        self._link = link
        self._run_id = run_id
        self._address = address
        self._round: Round | None = None
        self._past_round = 0
        self._must_meet_again = False
        self._end: str | None = None
        self._store: Store | None = None

    @classmethod
    def connect(cls, parameters: RendezvousParameters) -> "TorchrunRendezvous":
        """Return a handler whose link connects in the background.

        Raises:
            InvalidConfig: the endpoint, the token, `node`, `slot`, `attempt` or the address is missing or wrong.
        """
        host, _, port = parameters.endpoint.rpartition(":")
        if not host or not port.isdecimal():
            raise InvalidConfig(f"--rdzv-endpoint {parameters.endpoint!r} is not HOST:PORT of the run's coordinator")
        name = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-") or "node"
        address = parameters.local_addr or "127.0.0.1"
        attempt = parameters.get_as_int("attempt", 1) or 1
        identity = Identity(
            node=str(parameters.get("node", name)),
            slot=parameters.get_as_int("slot", 0) or 0,
            instance=uuid.uuid4().hex,
            started_unix_s=time.time(),
            attempt=attempt,
            token=take_token(os.environ, attempt=attempt),
            addr=address,
            processes=1,
        )
        try:
            identity.hello(Standing())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise InvalidConfig(f"--rdzv-conf or --local-addr is wrong at {first['loc'][0]}: {first['msg']}") from None
        link = Link(host, int(port), identity, read_progress=lambda: None)
        link.start()
        return cls(link, run_id=parameters.run_id, address=address)

    def get_backend(self) -> str:
        """Return `sam3ft`."""
        return BACKEND

    @property
    def use_agent_store(self) -> bool:
        """True: workers join the store that the agent of rank 0's node keeps open."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the next round, however long it takes.

        Raises:
            RendezvousClosedError: the run has its verdict, or is complete.
            RendezvousConnectionError: the coordinator refuses this node.
        """
        self._store, self._round, self._must_meet_again = None, None, False
        own = TCPStore(self._address, 0, is_master=True, wait_for_workers=False, timeout=default_pg_timeout)
        ready = Ready(addr=self._address, port=own.port)
        self._link.tell(Standing(message=ready, past_round=self._past_round))
        refused_since_s: float | None = None
        while self._round is None:
            message = self._next_message(_POLL_S)
            if isinstance(message, Refused):
                refused_since_s = refused_since_s or time.monotonic()
                if time.monotonic() - refused_since_s > _REFUSED_S:
                    raise RendezvousConnectionError(f"the coordinator refuses this node: {message.reason}")
            if self._end is not None:
                raise RendezvousClosedError(self._end)
        self._past_round = self._round.round
        self._link.tell(Standing(round=self._round, past_round=self._past_round))
        return self._place(self._round, own)

    def is_closed(self) -> bool:
        """Return True once the run has a verdict or is complete."""
        return self._end is not None

    def set_closed(self) -> None:
        """Do nothing: a node leaves by `shutdown`, and cannot end the run of the others."""

    def num_nodes_waiting(self) -> int:
        """Return 1 when the stock agent should stop its workers and meet again, else 0."""
        while self._next_message(0.0) is not None:
            continue
        return int(self._must_meet_again or self._end is not None)

    def get_run_id(self) -> str:
        """Return the identity of the run."""
        return self._run_id

    def shutdown(self) -> bool:
        """Leave the run and close the link."""
        self._link.tell(Standing(message=Leave(reason="torchrun has ended on this node")))
        self._link.close(linger_s=1.0)
        return True

    def _place(self, round_: Round, own: TCPStore) -> RendezvousInfo:
        store = own
        if round_.node_rank != 0:
            store = TCPStore(
                round_.master_addr, round_.master_port, is_master=False, timeout=timedelta(seconds=_STORE_S)
            )
        self._store = store  # keeps rank 0's server alive for as long as the round lasts
        meeting = RendezvousStoreInfo(round_.master_addr, round_.master_port)
        shared = PrefixStore(f"sam3ft/{round_.round}", store)
        return RendezvousInfo(shared, round_.node_rank, len(round_.members), meeting)

    def _next_message(self, wait_s: float) -> CoordinatorMessage | None:
        """Take one message of the coordinator and note what it means; None when there is none."""
        try:
            message = self._link.inbox.get(timeout=wait_s) if wait_s > 0 else self._link.inbox.get_nowait()
        except queue.Empty:
            return None
        match message:
            case Round():
                self._round = message
            case Stop() | Regroup():
                self._must_meet_again |= self._round is not None and message.round == self._round.round
            case Verdict():
                self._end = f"verdict {message.code}: {message.message}"
            case Complete():
                self._end = "the run is complete"
            case _:
                pass
        return message
