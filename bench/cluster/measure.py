"""Starts a private PostgreSQL, certificates and a board, and runs the steps of ``bench/board.sh`` against it.

The shape of the test is the one that Diego's BBS was measured in: mutual TLS, PostgreSQL with its default durability,
the published Go client as load, all on the same cores. ``--store sqlite`` and ``--plain`` take the other store and
plain HTTP, so that what each costs can be seen.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.postgres import PostgresServer
from support.processes import ProcessFailed, ServingProcess, run_bulletin

from bench import harness

__all__ = ["main"]

#: Tasks that bbsload starts run on a cell that is nowhere, and a sweep would fail them; only one step wants sweeps.
_SWEEPS = {True: "5s", False: "30m"}
_STEPS = ("warm", "ping", "desire", "lifecycle", "get", "list", "events", "callback", "rate", "sweep")
#: The name that bbsload completes tasks as; with roles a certificate may do that only in its own name.
_CELL = "cell-1"


def main() -> int:
    options = _options()
    with ExitStack() as stack:
        directory = stack.enter_context(harness.data_directory(options.disk))
        arguments = ["board", "--listen", "127.0.0.1:0", "--data", str(directory / "data"), *options.board_option]
        pids: list[str] = []
        environment: dict[str, str] = {}
        if options.store == "postgres":
            server = stack.enter_context(_postgres())
            environment["BULLETIN_DATABASE"] = server.create_database()
            pids.append(f"postgres={server.pid}")
        flags = []
        if not options.plain:
            certificates = _certificates(directory / "certificates")
            ca, board, load = (certificates / name for name in ("ca", "board", _CELL))
            arguments += ["--tls-ca", f"{ca}.pem", "--tls-cert", f"{board}.pem", "--tls-key", f"{board}.key"]
            flags = ["-ca", f"{ca}.pem", "-cert", f"{load}.pem", "-key", f"{load}.key", "-cell", _CELL]
        name = f"{options.store}-{'http' if options.plain else 'mtls'}"
        output = options.output or harness.RESULTS / f"cluster-{name}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
        output.parent.mkdir(parents=True, exist_ok=True)
        for sweeping in (False, True):
            steps = [step for step in options.steps if (step == "sweep") is sweeping]
            if not steps:
                continue
            log = directory / "board.log"
            board_process = ServingProcess([*arguments, "--converge-interval", _SWEEPS[sweeping]], log, environment)
            stack.callback(board_process.kill)
            url = board_process.start()
            try:
                _run(steps, options, url, flags, [f"board={board_process.pid}", *pids], output)
            except subprocess.CalledProcessError as error:
                print(f"error: a step ended with {error.returncode}\n{log.read_text()[-4000:]}", file=sys.stderr)
                return 1
            board_process.stop()
    print(f"written to {output}")
    subprocess.run([sys.executable, str(harness.ROOT / "bench" / "summary.py"), str(output)], check=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/cluster", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("steps", nargs="*", help=f"of {' '.join(_STEPS)}; all when left out")
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--plain", action="store_true", help="plain HTTP instead of mutual TLS")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each step")
    parser.add_argument("--others", default="0.3", help="cores that other processes may use before a run is repeated")
    parser.add_argument("--quiet", default="0.25", help="cores that may be busy before a run begins")
    parser.add_argument("--board-option", action="append", default=[], help="one more option of bulletin board")
    parser.add_argument("--disk", type=Path, help="directory for SQLite's data (default: below /var/tmp)")
    parser.add_argument("--output", type=Path, help="where the JSON lines go (default: bench/results)")
    options = parser.parse_args()
    unknown = set(options.steps) - set(_STEPS)
    if unknown:
        parser.error(f"unknown step {', '.join(sorted(unknown))}; there are {', '.join(_STEPS)}")
    options.steps = options.steps or list(_STEPS)
    return options


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="bulletin-bench-pg-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        server = PostgresServer(Path(directory) / "server")
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _certificates(directory: Path) -> Path:
    """An authority, the board's certificate, and one for the load, which is client and cell at once."""
    for arguments in (
        ["init", str(directory)],
        ["issue", str(directory), "--role", "client", "--role", "cell", "--name", _CELL],
    ):
        answer = run_bulletin("certs", *arguments)
        if answer.returncode != 0:
            raise ProcessFailed(f"certs {arguments[0]}: {answer.stderr}")
    return directory


def _run(
    steps: list[str], options: argparse.Namespace, url: str, flags: list[str], pids: list[str], output: Path
) -> None:
    environment = {
        **os.environ,
        "URL": url,
        "FLAGS": " ".join(flags),
        "PIDS": ",".join(pids),
        "OUT": str(output),
        "REP": str(options.repeat),
        "OTHERS": options.others,
        "QUIET": options.quiet,
    }
    script = str(harness.ROOT / "bench" / "board.sh")
    subprocess.run([script, *steps], env=environment, check=True)
