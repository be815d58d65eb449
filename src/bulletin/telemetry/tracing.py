"""Trace ids: which request a log line belongs to (board-api.md 1.2).

A server says ``begin`` when it takes a request up; it only remembers where the header is, because most requests log
nothing. ``add_trace`` looks at it when a line is logged: a valid ``X-Vcap-Request-Id`` gives the line ``trace_id`` and
``span_id``, anything else gives nothing and is never an error.

Context variables follow the work: everything a request awaits, and every asyncio task started for it, logs with its
trace. What serves many requests at once (a group commit, a plan, a frame of a cell's link, a callback) belongs to none
of them and carries no trace; a task's guid, on every such line, is what connects the two. The trace is not sent to
cells for the same reason: a task is placed, and placed again, long after its request was answered.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["HEADER", "add_trace", "begin", "parse_trace_id"]

HEADER: Final = "X-Vcap-Request-Id"

_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: With a hyphen after each digit it would be still valid; what is longer is not looked at.
_TRACE_ID_CHARACTERS_MAX: Final = 64
_NONE: Final = "0" * 32


@dataclass(frozen=True, slots=True)
class _Span:
    """What was made of a request's headers, kept for its later lines."""

    headers: Mapping[str, str]
    trace_id: str
    span_id: str


_headers: ContextVar[Mapping[str, str] | None] = ContextVar("bulletin_request_headers", default=None)
_span: ContextVar[_Span | None] = ContextVar("bulletin_span", default=None)

#: ``begin(headers)``: what is logged from here on, in this context, belongs to the request with these headers. It is
#: the variable's own method, because this happens for every request: 60 ns.
begin: Final = _headers.set


def parse_trace_id(text: str) -> str | None:
    """32 hexadecimal digits, in lower case, with hyphens anywhere; all zeros mean none. Else None."""
    if len(text) > _TRACE_ID_CHARACTERS_MAX:
        return None
    digits = text.replace("-", "").lower()
    return digits if _TRACE_ID.fullmatch(digits) and digits != _NONE else None


def add_trace(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The processor: adds ``trace_id`` and ``span_id`` to a line of a request that has a trace."""
    headers = _headers.get()
    if headers is None:
        return event
    span = _span.get()
    if span is None or span.headers is not headers:
        span = _Span(headers, parse_trace_id(headers.get(HEADER, "")) or "", secrets.token_hex(8))
        _span.set(span)
    if span.trace_id:
        event.setdefault("trace_id", span.trace_id)
        event.setdefault("span_id", span.span_id)
    return event
