"""The command line: one file per command group."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line of ``bulletin`` and return its exit status; ``argv`` is without the program's name."""
    from bulletin.cli.app import main as run

    return run(argv)
