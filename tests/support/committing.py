"""A process that commits batch after batch until it is killed (tests/store/committing_child.py), and what it leaves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["assert_batches_are_whole", "kill_child", "start_child"]

_CHILD = Path(__file__).parent.parent / "store" / "committing_child.py"


def start_child(data: object, first: int, count: int = 1_000_000) -> subprocess.Popen[bytes]:
    """Start it on the store ``data`` names; ``child.stdout`` gives a line for each batch that is durable."""
    command = [sys.executable, "-W", "error", str(_CHILD), str(data), str(first), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def kill_child(child: subprocess.Popen[bytes]) -> list[int]:
    """Kill -9; the numbers it had still written."""
    child.kill()
    with child:
        assert child.stdout is not None
        return [int(line) for line in child.stdout]


def assert_batches_are_whole(tasks: dict[str, Any], reported: int) -> int:
    """All batches up to ``reported`` are there, and at most one more; returns the last that is."""
    last = tasks.pop("counter").created_at
    assert last in {reported, reported + 1}
    # Each batch removed one task of the batch before it.
    expected = {f"{number}-{part}" for number in range(last + 1) for part in range(1, 5)} | {f"{last}-0"}
    assert tasks.keys() == expected
    return last
