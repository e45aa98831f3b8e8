"""A PostgreSQL server of its own on a free port of this machine, which can be stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psutil
import psycopg
from tenacity import retry, stop_after_delay, wait_fixed

from deploy.local.broker import free_port

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/bin"))  # Debian's newest


class Postgres:
    """A cluster in `folder`, reached through 127.0.0.1 as `url`. A context: stopped at its end.

    `options` are settings of the server, such as `ssl=on`. What is in `folder` survives a kill.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder, self._options, self._port = folder, options, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"
        root = os.geteuid() == 0  # PostgreSQL refuses to run as root
        self._become: list[str | Path] = (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
        )

    def __enter__(self) -> Self:
        if self._become:
            shutil.chown(self._folder, "postgres")
            self._folder.chmod(0o700)
            self._open_parents()
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        init: list[str | Path] = [POSTGRES / "initdb", "-D", self._data, *options]
        subprocess.run([*self._become, *init], check=True, capture_output=True, cwd="/")
        with ExitStack() as started:
            started.callback(self.__exit__)  # where it does not come up
            self.start()
            self.wait()
            started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # its fast shutdown: SIGTERM waits for clients
            self.process.wait(30)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _open_parents(self) -> None:
        """Let the user postgres pass the folders above. Another session of tests closes the one that they share."""
        for parent in self._folder.parents:
            if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)

    def start(self) -> None:
        """Start the server, on what its folder holds."""
        if self._become:
            self._open_parents()
        sockets = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]  # whose paths may be too long
        port = ["-p", str(self._port), *sockets, "-c", "fsync=off"]
        options = [word for option in self._options for word in ("-c", option)]
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            command: list[str | Path] = [*self._become, POSTGRES / "postgres", "-D", self._data, *port, *options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the server and everything that it has started."""
        assert self.process is not None
        server = psutil.Process(self.process.pid)
        for each in [server, *server.children(recursive=True)]:
            each.send_signal(which)

    def kill(self) -> None:
        """Kill the server and everything that it has started."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.signal(signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(children, 30)  # one that lives on holds the shared memory, and no other server may start

    @retry(stop=stop_after_delay(60), wait=wait_fixed(0.1), reraise=True)
    def wait(self) -> None:
        """Wait until it takes connections."""
        psycopg.connect(f"host=127.0.0.1 port={self._port} user=postgres connect_timeout=5").close()
