"""A real S3 server (versitygw) for tests: a process on loopback over a folder, with keys of its own."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ports import HOST, free_port

from components import binary

REGION = "us-east-1"
_START_S = 20.0


class S3Server:
    """A server that is started by entering the context, and ended by leaving it.

    Attributes:
        access_key, secret_key: of its root account, new for each server.
        port: where it listens, over restarts.
        log: its output.
    """

    def __init__(
        self, folder: Path, *, host: str = HOST, port: int | None = None, options: Sequence[str] = (), tls: bool = False
    ) -> None:
        """Prepare a server over `folder`, whose subfolders are the buckets.

        Args:
            folder: exists; data lies below it, the log beside it.
            host: address to listen at.
            port: None takes a free one.
            options: more arguments of the program, as `--cert`.
            tls: the options make it speak TLS.
        """
        self.folder = folder
        self.access_key = f"test{secrets.token_hex(8)}"
        self.secret_key = secrets.token_hex(20)
        self.host, self.port = host, port or free_port()
        self.log = folder.parent / f"{folder.name}.log"
        self._options, self._tls = tuple(options), tls
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """URL of the service."""
        return f"http{'s' if self._tls else ''}://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def environment(self, prefix: str = "") -> dict[str, str]:
        """Return the variables by which clients find the server and its keys, their names behind `prefix`."""
        variables = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
        }
        return {f"{prefix}{name}": value for name, value in variables.items()}

    def profiles_file(self, path: Path, *, endpoint: str | None = None, profiles: Sequence[str] = ("default",)) -> Path:
        """Write a file of storage profiles that all lead to this server, or to a proxy in front of it."""
        lines = ["profiles:"]
        for name in profiles:
            lines += [
                f"  {name}:",
                f"    endpoint: {endpoint or self.endpoint}",
                f"    region: {REGION}",
                "    addressing: path",
                "    allowHttp: true",
                "    allowNetworks: [loopback]",
            ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def create_bucket(self, name: str) -> str:
        """Make a bucket and return its name."""
        (self.folder / name).mkdir()
        return name

    def upload_folder(self, bucket: str, prefix: str, folder: Path) -> None:
        """Put every file below `folder` under `prefix`, through the server."""
        import obstore  # noqa: PLC0415 - a process that only starts servers need not load it
        from obstore.store import S3Store  # noqa: PLC0415

        store = S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                obstore.put(store, path.relative_to(folder).as_posix(), path)

    def start(self) -> Self:
        """Start the process and wait until it answers.

        Raises:
            RuntimeError: it does not come up within 20 s; the message holds the end of its log.
        """
        command = [str(binary("versitygw")), "--port", f"{self.host}:{self.port}", "--region", REGION, *self._options]
        environment = {
            **_without_aws(os.environ),
            "ROOT_ACCESS_KEY": self.access_key,
            "ROOT_SECRET_KEY": self.secret_key,
        }
        self._output = self.log.open("ab")
        self._process = subprocess.Popen(
            [*command, "posix", str(self.folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        give_up_at = time.monotonic() + _START_S
        while time.monotonic() < give_up_at and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex((self.host, self.port)) == 0:
                    return self
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"the S3 server did not come up at {self.endpoint}:\n{self.log.read_text()[-2000:]}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the process; its data stay, and `start` goes on with them at the same port."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None

    def pause(self) -> None:
        """Let the process answer nothing until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop(signal.SIGKILL)


def _without_aws(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(("AWS_", "VGW_", "ROOT_"))}
