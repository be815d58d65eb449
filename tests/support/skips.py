"""Skipping what cannot run here, with a reason that the test report shows.

The marks stand on tests; the ``require_*`` functions are for fixtures.
"""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["needs_command", "needs_root", "require_command", "require_root"]

_ROOT_REASON = "containers, mounts and cgroups need root: run the tests as root"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason=_ROOT_REASON)


def needs_command(*names: str) -> pytest.MarkDecorator:
    """A mark that skips the test unless every command is on PATH."""
    missing = _missing(names)
    return pytest.mark.skipif(bool(missing), reason=_command_reason(missing))


def require_root() -> None:
    """Skip the test that asks for the fixture unless it runs as root."""
    if os.geteuid() != 0:
        pytest.skip(_ROOT_REASON)


def require_command(*names: str) -> None:
    """Skip the test that asks for the fixture unless every command is on PATH."""
    missing = _missing(names)
    if missing:
        pytest.skip(_command_reason(missing))


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if shutil.which(name) is None]


def _command_reason(missing: list[str]) -> str:
    return f"not on PATH: {', '.join(missing)}"
