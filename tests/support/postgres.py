"""A private PostgreSQL server for tests: its own data directory, a free port of the loopback, full durability.

PostgreSQL refuses to run as root, so a root test run starts it as the user ``postgres`` of its package.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from support.ports import free_port

__all__ = ["PostgresServer", "find_postgres", "require_postgres"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0


def find_postgres() -> Path | None:
    """The directory of the newest installed server's programs; distributions keep them off PATH."""
    on_path = shutil.which("postgres")
    if on_path is not None:
        return Path(on_path).resolve().parent
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def require_postgres() -> Path:
    """The programs' directory; skips the test that asks where there is no server, or no user to run it."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return programs


class PostgresServer:
    """One server, from ``start`` to ``stop``. Only the loopback reaches it; nobody needs a password there.

    Args:
        directory: made, and owned by whoever the server runs as; the data and the log go below it.
        options: server settings, ``name=value``.
    """

    def __init__(self, directory: Path, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self._programs = require_postgres()
        self._options = options
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Make the cluster when there is none, and serve.

        Raises:
            AssertionError: it did not come up.
        """
        data = self.directory / "data"
        if not data.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            if self._user is not None:
                # The test run's own directory is not open to other users: a symlink-free path of theirs is.
                shutil.chown(self.directory, self._user)
            self._run(
                "initdb",
                "--pgdata",
                str(data),
                "--username",
                "postgres",
                "--auth",
                "trust",
                "--encoding",
                "UTF8",
                "--locale",
                "C",
                "--no-sync",
            )
        self.port = self.port or free_port()
        log = (self.directory / "log").open("ab")
        settings = (
            "listen_addresses=127.0.0.1",
            f"port={self.port}",
            f"unix_socket_directories={self.directory}",
            *self._options,
        )
        arguments = [str(self._programs / "postgres"), "-D", str(data)]
        for setting in settings:
            arguments += ["-c", setting]
        with log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._group(),
                extra_groups=[] if self._user else None,
                cwd=self.directory,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, (self.directory / "log").read_text()[-4000:]
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)

    def create_database(self) -> str:
        """A new, empty database; returns its URL."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._run("createdb", "--host", "127.0.0.1", "--port", str(self.port), "--username", "postgres", name)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        name = url.rpartition("/")[2]
        self._run("dropdb", "--force", "--host", "127.0.0.1", "--port", str(self.port), "--username", "postgres", name)

    def kill(self) -> None:
        """Crash it: every process of it dies at once."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        self._process = None

    def stop(self) -> None:
        """Stop it; connections are cut. Idempotent."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)  # "fast": it does not wait for clients
        try:
            self._process.wait(STOP_SECONDS)
        finally:
            if self._process.poll() is None:
                self.kill()
            self._process = None

    def _is_ready(self) -> bool:
        answer = subprocess.run(
            [str(self._programs / "pg_isready"), "--quiet", "--host", "127.0.0.1", "--port", str(self.port)],
            check=False,
        )
        return answer.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            user=self._user,
            group=self._group(),
            extra_groups=[] if self._user else None,
            cwd=self.directory,
            timeout=START_SECONDS,
        )

    def _group(self) -> int | None:
        return pwd.getpwnam(self._user).pw_gid if self._user else None
