"""`FaultProxy`: a proxy process in front of an HTTP server, told what to spoil."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from sam3ft_faults.rules import Rule

HARNESS = Path(__file__).parents[1]
"""The folder that must be on the module path of the proxy's process."""
_END_S = 10.0


class FaultProxy:
    """Stands on a loopback port in front of an HTTP server, for as long as the context lasts.

    Requests are passed on byte for byte, the Host header included, until rules say otherwise. The process is of its
    own, ends with this one, and may be told from any thread.

        with FaultProxy("http://127.0.0.1:9000") as proxy:
            proxy.rules(Rule(fault="status", methods=("PUT",), share=0.5))
            ...  # clients of proxy.endpoint
            proxy.clear()
            assert proxy.totals()["fault:status"] > 0
    """

    def __init__(self, target: str, *, seed: int = 0, port: int = 0) -> None:
        """Stand in front of `target`.

        Args:
            target: `http://host:port` of the server.
            seed: of the draws for `Rule.share`.
            port: to listen on; 0 takes a free one.

        Raises:
            ValueError: `target` is no such address.
        """
        parts = urlsplit(target)
        if parts.scheme != "http" or parts.hostname is None or parts.port is None:
            raise ValueError(f"{target!r} is not http://HOST:PORT")
        self._target = f"{parts.hostname}:{parts.port}"
        self._seed, self._port = seed, port
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`, the same for as long as the proxy lives, also while it refuses."""
        return f"http://127.0.0.1:{self._port}"

    def rules(self, *rules: Rule) -> None:
        """Put these rules in place of the present ones; exchanges under way are not touched."""
        self._ask({"do": "rules", "rules": [rule.to_json() for rule in rules]})

    def clear(self) -> None:
        """Pass everything on from now on."""
        self.rules()

    def refuse(self) -> None:
        """Refuse connections and reset those that stand, until `accept`."""
        self._ask({"do": "refuse"})

    def accept(self) -> None:
        """Take connections again, on the same port."""
        self._ask({"do": "accept"})

    def drop(self) -> None:
        """Reset all connections that stand; new ones are taken."""
        self._ask({"do": "drop"})

    def totals(self) -> dict[str, int]:
        """Return what was done so far.

        `connections`, `requests`, `passed`, `fault:NAME` for each fault, `broken` connections, and `request_bytes` and
        `answer_bytes` of bodies. What never happened is missing.
        """
        totals: dict[str, int] = self.account()["totals"]
        return totals

    def struck(self) -> list[int]:
        """Return how many requests each of the present rules has struck, in their order."""
        return [rule["struck"] for rule in self.account()["rules"]]

    def requests(self) -> list[dict[str, Any]]:
        """Return the newest 2,000 requests: method, target, and the fault that struck or `struck: False`."""
        requests: list[dict[str, Any]] = self.account()["requests"]
        return requests

    def account(self) -> dict[str, Any]:
        """Return `totals`, `rules` and `requests` at one moment."""
        return self._ask({"do": "account"})

    def close(self) -> None:
        """End the process; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        """Start the process and return once it listens."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sam3ft_faults.proxy_server", self._target, str(self._seed), str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HARNESS)},
        )
        self._port = int(self._read()["port"])
        return self

    def __exit__(self, *exception: object) -> None:
        """End the process."""
        self.close()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._process is None or self._process.stdin is None:
                raise RuntimeError("the proxy does not run; use it in a with statement")
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._read()
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxy has ended with {self._process.wait()}; its own words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer
