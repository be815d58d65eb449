"""The command line: one file per command group."""

from __future__ import annotations


def main() -> None:
    """Run the command line of ``bulletin``."""
