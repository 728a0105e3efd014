"""Accounting for a SLURM site: slurmdbd and a MariaDB server of its own, both as whoever starts them."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ports import HOST, free_port
from programs import Program

_READY_S = 60.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_INSTALL_DB = "mariadb-install-db"


class Accounting:
    """The two servers; `start` needs a munged that runs."""

    def __init__(self, folder: Path, munge_socket: Path) -> None:
        """Prepare.

        Args:
            folder: of the site.
            munge_socket: of its munged.

        Raises:
            RuntimeError: a program is not installed; the message names the command that installs it.
        """
        programs = (_INSTALL_DB, "mariadbd", "slurmdbd", "sacctmgr")
        if missing := [name for name in programs if shutil.which(name, path=_PATH) is None]:
            raise RuntimeError(f"SLURM's accounting is not installed ({', '.join(missing)} missing); `make components`")
        self._folder, self._munge_socket, self._port = folder, munge_socket, free_port()
        self._data, self._db_socket = folder / "db", folder / "db.sock"
        database = [
            *("mariadbd", "--no-defaults", f"--datadir={self._data}", f"--socket={self._db_socket}"),
            *("--skip-networking", f"--user={getpass.getuser()}", f"--pid-file={folder}/db.pid"),
            # slurmdbd asks for these, and a small site needs no more.
            *("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-lock-wait-timeout=900"),
        ]
        prefix = ["env", f"PATH={_PATH}", f"MYSQL_UNIX_PORT={self._db_socket}"]
        self._database = Program("mariadbd", [*prefix, *database], folder / "mariadbd.log")
        self._daemon = Program(
            "slurmdbd", [*prefix, f"SLURM_CONF={folder}/slurm.conf", "slurmdbd", "-D"], folder / "slurmdbd.log"
        )

    def config(self) -> list[str]:
        """Return the lines of slurm.conf."""
        return [
            *("AccountingStorageType=accounting_storage/slurmdbd", f"AccountingStorageHost={HOST}"),
            f"AccountingStoragePort={self._port}",
            # Without it clients take the default socket, and every sacct fails after 2 s.
            f"AccountingStoragePass={self._munge_socket}",
        ]

    def start(self) -> None:
        """Start both and make the cluster known.

        Raises:
            RuntimeError: one of them ended, or does not answer within a minute.
        """
        if not self._data.exists():
            command = [_INSTALL_DB, "--no-defaults", f"--datadir={self._data}", f"--user={getpass.getuser()}"]
            command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
            subprocess.run(command, env={**os.environ, "PATH": _PATH}, capture_output=True, check=True)
        self._write_config()
        self._database.start()
        self._wait(self._database, self._db_socket.exists)
        self._daemon.start()
        self._wait(self._daemon, self._listens)
        environ = {**os.environ, "PATH": _PATH, "SLURM_CONF": f"{self._folder}/slurm.conf"}
        subprocess.run(["sacctmgr", "-i", "add", "cluster", "t"], env=environ, capture_output=True, check=True)

    def stop(self) -> None:
        """Stop both."""
        self._daemon.stop()
        self._database.stop()

    def _write_config(self) -> None:
        path = self._folder / "slurmdbd.conf"
        path.touch(mode=0o600)
        path.write_text(
            "\n".join(
                [
                    *("AuthType=auth/munge", f"AuthInfo=socket={self._munge_socket}", f"DbdHost={_host()}"),
                    *(f"DbdAddr={HOST}", f"DbdPort={self._port}", f"SlurmUser={getpass.getuser()}"),
                    *("StorageType=accounting_storage/mysql", "StorageHost=localhost", "StorageUser=root"),
                    *("StorageLoc=slurm_acct_db", f"LogFile={self._folder}/slurmdbd.out"),
                    f"PidFile={self._folder}/slurmdbd.pid",
                ]
            )
            + "\n"
        )

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, self._port)) == 0

    @staticmethod
    def _wait(program: Program, condition: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + _READY_S
        while not condition():
            program.raise_if_ended()
            if time.monotonic() > give_up_s:
                raise RuntimeError(f"{program.name} does not answer:\n{program.log_tail()}")
            time.sleep(0.1)


def _host() -> str:
    return socket.gethostname().partition(".")[0]
