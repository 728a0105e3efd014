"""`member_worker` with torch's gloo as its exchange: imports what a trainer imports, then steps and commits as it does.

python gloo_member.py STORE [--steps N] [--every N] [--step-s S]
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from member_worker import PeerLost, main

import sam3ft_trainer.run.train  # noqa: F401 - for the time that it takes

_BITS = 3


class GlooExchange:
    """Every rank gives some bits and gets the union of everybody's."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", timeout=timedelta(minutes=30))

    def union(self, bits: int) -> int:
        flags = torch.tensor([bits >> place & 1 for place in range(_BITS)], dtype=torch.uint8)
        try:
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        except RuntimeError as error:
            raise PeerLost(str(error)) from error
        return sum(flag << place for place, flag in enumerate(flags.tolist()))


if __name__ == "__main__":
    sys.exit(main(GlooExchange))
