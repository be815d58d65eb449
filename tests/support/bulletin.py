"""A board, and a board with a cell, as processes of their own, for tests that go through the front door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.processes import STOP_SECONDS, ProcessFailed, ServingProcess, run_bulletin

__all__ = ["BUSYBOX", "EXAMPLE_IMAGE", "BoardProcess", "BulletinUp", "import_example_image"]

#: The static busybox of Debian's busybox-static: the example image is made of this one file.
BUSYBOX = Path("/bin/busybox")
#: What the tasks of the documentation call ``docker:///busybox``.
EXAMPLE_IMAGE = "busybox"


def import_example_image(data: Path) -> None:
    """Put the image ``docker:///busybox`` into a cell's store, without a registry.

    Raises:
        ProcessFailed: the command refused.
    """
    answer = run_bulletin("image", "import", EXAMPLE_IMAGE, f"busybox:{BUSYBOX}", "--data", str(data))
    if answer.returncode != 0:
        raise ProcessFailed(f"image import ended with {answer.returncode}: {answer.stderr[-4000:]}")


@dataclass(frozen=True, slots=True)
class BulletinUp:
    """A board and a cell that run together, as ``bulletin up`` runs them."""

    url: str
    #: The directory of both; the cell's half is ``data/cell``.
    data: Path
    cell_id: str
    process: ServingProcess

    @classmethod
    def start(cls, data: Path, log: Path, cell_id: str, options: Sequence[str] = ()) -> BulletinUp:
        """Import the example image and start both on a free port of the loopback.

        Raises:
            ProcessFailed: it did not come up.
        """
        import_example_image(data)
        arguments = ["up", "--listen", "127.0.0.1:0", "--data", str(data), "--id", cell_id, *options]
        process = ServingProcess(arguments, log)
        return cls(process.start(), data, cell_id, process)

    def stop(self) -> None:
        """Stop both by SIGTERM; anything but a clean exit is a failure."""
        code = self.process.stop()
        if code != 0:
            raise ProcessFailed(f"bulletin up ended with {code}: {self.process.log_text()[-4000:]}")


class BoardProcess:
    """A board alone, which can be killed and started again on the same data and address.

    Args:
        directory: the board's data and its log go below it.
        options: more options of ``bulletin board``.
        database: the URL of a PostgreSQL database; empty: SQLite, in a file below the directory.
    """

    def __init__(self, directory: Path, options: Sequence[str] = (), *, database: str = "") -> None:
        self.data = directory / "data"
        self._log = directory / "board.log"
        self._options = list(options)
        self._database = database
        self._listen = "127.0.0.1:0"
        self._process: ServingProcess | None = None
        #: Every process this board has been, oldest first.
        self.processes: list[ServingProcess] = []

    @property
    def url(self) -> str:
        assert self._process is not None, "not started"
        return self._process.address

    @property
    def process(self) -> ServingProcess:
        assert self._process is not None, "not started"
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def configure(self, *options: str) -> None:
        """Other options, from the next start on."""
        self._options = list(options)

    def start(self) -> str:
        """Start it; the first start chooses a port and every later one takes the same. Returns the URL."""
        arguments = ["board", "--listen", self._listen, "--data", str(self.data), *self._options]
        if self._database:
            arguments += ["--database", self._database]
        self._process = ServingProcess(arguments, self._log)
        self.processes.append(self._process)
        url = self._process.start()
        self._listen = url.partition("://")[2]
        return url

    def kill(self) -> None:
        """Crash it: SIGKILL, no goodbye."""
        self.process.kill()

    def restart(self) -> str:
        """Crash it if it runs, and start it again on what it had made durable."""
        if self.running:
            self.kill()
        return self.start()

    def stop(self, within_seconds: float = STOP_SECONDS) -> None:
        """Stop it gracefully; anything but a clean exit is a failure."""
        code = self.process.stop(within_seconds)
        if code != 0:
            raise ProcessFailed(f"bulletin board ended with {code}: {self.process.log_text()[-4000:]}")

    def log_text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""
