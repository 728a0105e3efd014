"""`python -m sam3ft_operator.ready URL` asks an operator whether it is ready, until it is: the test of an install."""

import argparse
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

PAUSE_S = 1.0
ANSWER_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the operator says; return 0 when it is ready, 1 when it was not within the time."""
    parser = argparse.ArgumentParser(prog="python -m sam3ft_operator.ready", description=__doc__)
    parser.add_argument("url", help="of the operator's probes, as http://sam3ft-metrics:8080")
    parser.add_argument("--within-s", type=float, default=45.0, help="seconds to wait for it (default: %(default)s)")
    given = parser.parse_args(arguments)
    if not given.url.startswith(("http://", "https://")):
        parser.error(f"{given.url!r} is no address; write http://HOST:PORT")
    give_up_at = time.monotonic() + given.within_s
    while True:
        ready, said = ask(f"{given.url.rstrip('/')}/readyz")
        if ready or time.monotonic() >= give_up_at:
            print(f"{'ready' if ready else 'not ready'}: {said}", file=sys.stdout if ready else sys.stderr)
            return 0 if ready else 1
        time.sleep(PAUSE_S)


def ask(url: str) -> tuple[bool, str]:
    """Return whether the answer is 200, and its text or why there is none."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310 - http or https, checked by the caller
            return answer.status == 200, answer.read(1000).decode(errors="replace").strip()
    except urllib.error.HTTPError as error:
        return False, f"{error.code} {error.read(1000).decode(errors='replace').strip()}"
    except OSError as error:
        return False, str(error)


if __name__ == "__main__":
    sys.exit(main())
