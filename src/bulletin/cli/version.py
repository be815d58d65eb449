"""``bulletin version``."""

from __future__ import annotations

import platform
import sys
from typing import Final

from bulletin.cli import printing
from bulletin.cli.exits import OK
from bulletin.cli.options import Json

__all__ = ["EPILOGUE", "read_version", "version"]

EPILOGUE: Final = """\
Examples:
  bulletin version
  bulletin version --json | jq -r .bulletin"""


def version(*, json: Json = False) -> int:
    """Print the version of bulletin, and of the Python it runs on."""
    if json:
        value = {"bulletin": read_version(), "python": platform.python_version(), "platform": platform.platform()}
        printing.print_json(value)
    else:
        sys.stdout.write(f"bulletin {read_version()} (Python {platform.python_version()}, {platform.platform()})\n")
    return OK


def read_version() -> str:
    """The version of the installed package; ``unknown`` in a tree that was never installed."""
    from importlib import metadata

    try:
        return metadata.version("bulletin")
    except metadata.PackageNotFoundError:
        return "unknown"
