#!/usr/bin/env python3
"""Prints the medians of bbsload's result lines: ``python bench/summary.py results/board.jsonl ...``.

Runs that other processes disturbed (``noisy``) are left out.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = dict[str, Any]

RATES = ("ops_per_s", "lives_per_s", "desire_per_s", "complete_per_s", "callbacks_per_s", "events_per_s")
COUNTS = ("missing", "errors", "duplicates", "drained_s", "body_bytes", "tasks_returned", "callback_connections")


def read_runs(paths: list[str]) -> dict[tuple[Any, ...], list[Run]]:
    """The undisturbed runs of the files, by mode, label, connections, subscribers and rawness."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for path in paths:
        for line in Path(path).read_text().splitlines():
            run = json.loads(line)
            if not run.get("noisy"):
                key = (run["mode"], run["label"], run["c"], run.get("subs"), "raw" if run.get("raw") else "")
                groups.setdefault(key, []).append(run)
    return groups


def median(runs: list[Run], pick: Callable[[Run], float]) -> float:
    return statistics.median(pick(run) for run in runs)


def rate_text(runs: list[Run], name: str) -> str:
    values = [run[name] for run in runs]
    return f"{name}={statistics.median(values):.0f}[{min(values):.0f}-{max(values):.0f}]"


def latency_text(runs: list[Run], name: str) -> str:
    runs = [run for run in runs if name in run]
    p50, p99 = median(runs, lambda run: run[name]["p50"]), median(runs, lambda run: run[name]["p99"])
    return f"{name[:-3]} p50={p50:.2f} p99={p99:.2f} max={max(run[name]['max'] for run in runs):.1f}"


def cpu_texts(runs: list[Run], operations: float) -> list[str]:
    texts = []
    for process in runs[0]["cpu_s"]:
        seconds = statistics.median(run["cpu_s"][process] for run in runs)
        if process == "machine_busy_cores":
            texts.append(f"busy={seconds:.2f}")
        elif operations and process not in ("steal", "others_cores"):
            texts.append(f"cpu.{process}={seconds:.2f}s({1e6 * seconds / operations:.0f}us/n)")
        else:
            texts.append(f"{process}={seconds:.2f}")
    return texts


def memory_text(runs: list[Run]) -> str:
    peaks = (f"{name}={max(run['mem'][name]['rss_kb'] for run in runs) // 1024}MB" for name in runs[0]["mem"])
    return "rss " + " ".join(peaks)


def summarise(runs: list[Run]) -> str:
    first = runs[0]
    texts = [rate_text(runs, name) for name in RATES if name in first]
    texts += [latency_text(runs, name) for name in first if name.endswith("_ms") and isinstance(first[name], dict)]
    if "cpu_s" in first:
        texts += cpu_texts(runs, median(runs, lambda run: run.get("n", 0)))
    if first.get("mem"):
        texts.append(memory_text(runs))
    texts += [f"{name}={[run.get(name) for run in runs]}" for name in COUNTS if any(run.get(name) for run in runs)]
    return "; ".join(texts)


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    for key, runs in read_runs(sys.argv[1:]).items():
        print(key, "runs", len(runs))
        print("   ", summarise(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
