"""`python -m sam3ft_launch.slurm.coordinate`: the coordinator, at the address by which SLURM itself reaches the node.

Signals that ask a job to save and end are for the launchers, who need the coordinator until they have done so: it ends
when its file is removed.
"""

import argparse
import socket
import sys

from sam3ft_launch.coordinator.__main__ import main as serve


def main(argv: list[str] | None = None) -> int:
    """Serve until the file is removed; returns the coordinator's exit code."""
    parser = argparse.ArgumentParser(prog="python -m sam3ft_launch.slurm.coordinate", description=__doc__)
    parser.add_argument("--address", required=True, help="NodeAddr of the node: a name or an address")
    parser.add_argument("--port-file", required=True)
    parser.add_argument("--attempt", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--min-nodes", type=int, help="nodes with which the run goes on; default: --nodes")
    parser.add_argument("--gate-deadline-s", type=float, help="after which the first round begins with fewer")
    given = parser.parse_args(argv)
    address = resolve(given.address)
    if address != given.address and address.startswith("127.") and given.nodes > 1:
        print(
            f"coordinator: this node's name {given.address} means {address} here, where no other node gets to; "
            "correct /etc/hosts of the node, or its NodeAddr in slurm.conf",
            file=sys.stderr,
        )
    host = f"[{address}]" if ":" in address else address
    return serve(
        [
            *("--listen", f"{host}:0", "--port-file", given.port_file),
            *("--nodes", str(given.nodes), "--attempt", given.attempt, "--until-removed"),
            *(("--min-nodes", str(given.min_nodes)) if given.min_nodes is not None else ()),
            *(("--gate-deadline-s", f"{given.gate_deadline_s:g}") if given.gate_deadline_s is not None else ()),
        ]
    )


def resolve(name: str) -> str:
    """Return the first address of a name, or the address itself; this host's own name where it is empty."""
    found = socket.getaddrinfo(name or socket.gethostname(), None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


if __name__ == "__main__":
    sys.exit(main())
