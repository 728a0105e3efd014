"""`python -m sam3ft_operator`: read the command line, work until SIGTERM."""

import faulthandler
import sys

from sam3ft_api.errors import UserError
from sam3ft_api.exit_codes import ExitCode
from sam3ft_launch.kubernetes.settings import PROGRESS_PORT
from sam3ft_operator import logs
from sam3ft_operator.app import Operator
from sam3ft_operator.decide import decide
from sam3ft_operator.options import parse
from sam3ft_operator.rendering import ClusterRenderer


def main() -> int:
    """Run the operator; returns the exit code. SIGABRT ends it with the stacks of all its threads in the log."""
    faulthandler.enable()
    try:
        options = parse()
    except UserError as error:
        print(f"sam3ft_operator: {error}", file=sys.stderr)
        return int(ExitCode.INVALID_CONFIG)
    logs.set_up(verbose=options.verbose)
    try:
        operator = Operator(
            options, decide=decide, renderer=ClusterRenderer(options.cluster), coordinator_port=PROGRESS_PORT
        )
    except (RuntimeError, OSError) as error:
        print(f"sam3ft_operator: {error}", file=sys.stderr)
        return 1
    return operator.run()


if __name__ == "__main__":
    sys.exit(main())
