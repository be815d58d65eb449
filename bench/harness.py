"""What both benchmarks share: facts of the machine, statistics, a table on the terminal, results on disk.

The benchmarks drive bulletin through its processes only, with the process harness of the tests.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = [
    "RESULTS",
    "ROOT",
    "data_directory",
    "facts",
    "percentile",
    "print_table",
    "spread",
    "summary",
    "write_results",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
#: /tmp is memory on many machines; this directory is a disk by convention.
_DISK = Path("/var/tmp")
_FSYNC_SAMPLES = 200


@contextmanager
def data_directory(parent: Path | None) -> Iterator[Path]:
    """A directory for a board's data, on a real disk unless told otherwise; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="bulletin-bench-", dir=parent or _DISK))
    # The root of a user namespace is nobody here, and has to pass through to its root file system.
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def facts(disk: Path) -> dict[str, Any]:
    """The machine, so that a number is never read without it."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "cpu": _field(Path("/proc/cpuinfo"), "model name"),
        "memory": _field(Path("/proc/meminfo"), "MemTotal"),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "go": _output("go", "version"),
        "file_system": _output("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(disk)),
        "fdatasync_ms": fsync_milliseconds(disk),
    }


def fsync_milliseconds(directory: Path) -> float:
    """The median time to make 4 KiB durable there."""
    samples = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(_FSYNC_SAMPLES):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - start)
    return round(1000 * statistics.median(samples), 3)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Times in milliseconds: how many, least, median, 99th percentile, most."""
    return {
        "n": len(seconds),
        "min_ms": round(1000 * min(seconds), 3),
        "p50_ms": round(1000 * statistics.median(seconds), 3),
        "p99_ms": round(1000 * percentile(seconds, 0.99), 3),
        "max_ms": round(1000 * max(seconds), 3),
    }


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, with the least and the most where they differ."""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} [{min(values):,.{digits}f}-{max(values):,.{digits}f}]"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # A file has no width of its own: a line is never folded there.
    Console(width=None if os.isatty(1) else 200).print(table)


def write_results(name: str, results: dict[str, Any], output: Path | None) -> Path:
    """Write the results as JSON, by default to bench/results; returns the path."""
    path = output or RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def _field(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _output(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip()
