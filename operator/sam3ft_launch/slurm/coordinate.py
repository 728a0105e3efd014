"""`python -m sam3ft_launch.slurm.coordinate`: the coordinator, at an address that all nodes of the job reach.

SLURM names that address: the node from which the steps are launched. Its signals go to all steps, so to this one, too:
launchers need the coordinator until they have saved, and it leaves after them.
"""

import os
import signal
import sys

from sam3ft_launch.coordinator.__main__ import main as serve
from sam3ft_launch.slurm.arguments import parser_of

ENV_ADDRESS = "SLURM_LAUNCH_NODE_IPADDR"
"""IP address of the node on which the batch script runs, set by SLURM in every step."""


def main(argv: list[str] | None = None) -> int:
    """Serve until the launchers have left after a signal; returns the coordinator's exit code."""
    parser = parser_of("sam3ft_launch.slurm.coordinate", "Run the coordinator of a job.")
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    given = parser.parse_args(argv)
    for number in (signal.SIGHUP, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)
    address = os.environ.get(ENV_ADDRESS, "127.0.0.1")
    host = f"[{address}]" if ":" in address else address
    return serve(
        [
            *("--listen", f"{host}:0", "--port-file", given.port_file),
            *("--nodes", str(given.nodes), "--attempt", str(given.attempt), "--last-to-leave"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
