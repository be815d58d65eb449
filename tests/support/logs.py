"""The log of code under test, as it would be written."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from structlog._config import BoundLoggerLazyProxy

from bulletin.telemetry.logging import configure

__all__ = ["captured_log"]


@contextmanager
def captured_log(level: str = "debug") -> Iterator[io.StringIO]:
    """Everything logged from ``level`` on, by us or by libraries, until the block is left."""
    root = logging.getLogger()
    handlers, root_level = list(root.handlers), root.level
    stream = io.StringIO()
    configure(level, stream)
    structlog.configure(cache_logger_on_first_use=False)
    for proxy in _proxies():
        # An earlier test may have made it log to where that test wanted it.
        vars(proxy).pop("bind", None)
    try:
        yield stream
    finally:
        root.handlers[:] = handlers
        root.setLevel(root_level)
        structlog.reset_defaults()


def _proxies() -> Iterator[BoundLoggerLazyProxy]:
    for name, module in list(sys.modules.items()):
        if name.startswith("bulletin."):
            yield from (each for each in vars(module).values() if isinstance(each, BoundLoggerLazyProxy))
