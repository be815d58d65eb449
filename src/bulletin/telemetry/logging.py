"""Logs as JSON lines: ``timestamp``, ``level``, ``source``, ``message``, then what the call added.

``configure`` is called once, by the composition root of a process. Everything logs through structlog
(``structlog.get_logger("bulletin.cell.agent")``); what libraries log through the standard library comes out in the
same form. Exceptions are written as text without local variables, which may hold secrets. A line of a request that has
a trace id carries it (``tracing``); secrets are struck out and long texts cut (``redaction``).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

from bulletin.telemetry.redaction import clean
from bulletin.telemetry.tracing import add_trace

__all__ = ["LEVELS", "configure"]

LEVELS: Final = ("debug", "info", "warning", "error")
#: What a library logs below this is noise to an operator.
_LIBRARY_LEVEL: Final = logging.WARNING


def configure(level: str, stream: TextIO | None = None) -> None:
    """Write logs of ``level`` and above to ``stream`` (when left out, whatever is standard error at the time).

    Raises:
        ValueError: no such level; the text names those there are.
    """
    if level not in LEVELS:
        msg = f"log level: {level!r} is none of {', '.join(LEVELS)}"
        raise ValueError(msg)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            add_trace,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            _add_source,
            structlog.processors.format_exc_info,
            clean,
            _arrange,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_LineLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(old)
    root.addHandler(_LibraryHandler())
    root.setLevel(max(number, _LIBRARY_LEVEL))


class _LineLogger:
    """Writes finished lines; knows the name of the module that logs."""

    def __init__(self, source: str, stream: TextIO | None) -> None:
        self.source = source
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        stream.write(line + "\n")
        stream.flush()

    debug = info = warning = error = exception = critical = msg


class _LineLoggerFactory:
    """``structlog.get_logger(source)``."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __call__(self, source: str = "bulletin") -> _LineLogger:
        return _LineLogger(source, self._stream)


class _LibraryHandler(logging.Handler):
    """Hands a library's record to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        try:
            logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
        except (TypeError, ValueError, json.JSONDecodeError):
            self.handleError(record)


def _add_source(logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.setdefault("source", getattr(logger, "source", "bulletin"))
    return event


def _arrange(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the four fields every line has first, so that people find them too."""
    message = event.pop("event", "")
    first = {name: event.pop(name, "") for name in ("timestamp", "level", "source")}
    return {**first, "message": message, **event}
