"""Which request a log line belongs to."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from contextvars import copy_context

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bulletin.telemetry import tracing
from bulletin.telemetry.logging import configure

TRACE = "0af7651916cd43dd8448eb211c80319c"
UUID = "0af76519-16cd-43dd-8448-eb211c80319c"


@pytest.fixture
def stream():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "trace_id"),
    [
        (TRACE, TRACE),
        (UUID, TRACE),
        (UUID.upper(), TRACE),
        ("-".join(TRACE), TRACE),
        ("", None),
        ("0" * 32, None),
        (TRACE[:-1], None),
        (TRACE + "0", None),
        (TRACE[:-1] + "g", None),
        (TRACE[:-1] + "٣", None),
        (TRACE + "\n", None),
        (TRACE + "-" * 100, None),
    ],
)
def test_what_is_a_trace_id(text, trace_id):
    assert tracing.parse_trace_id(text) == trace_id


@given(st.text())
def test_anything_may_stand_in_the_header(text):
    parsed = tracing.parse_trace_id(text)
    assert parsed is None or parsed == text.replace("-", "").lower()


async def test_a_request_and_all_it_starts_log_its_trace(stream):
    log = structlog.get_logger("x")

    async def work() -> None:
        log.info("deep")

    async def request(value: str) -> None:
        tracing.begin({tracing.HEADER: value})
        log.info("first")
        await asyncio.create_task(work())

    await asyncio.gather(asyncio.create_task(request(UUID)), asyncio.create_task(request("")))
    log.info("outside")
    with_trace = [line for line in lines(stream) if "trace_id" in line]
    assert {line["message"] for line in with_trace} == {"first", "deep"}
    assert len(with_trace) == 2
    assert {line["trace_id"] for line in with_trace} == {TRACE}
    (span_id,) = {line["span_id"] for line in with_trace}
    assert len(span_id) == 16
    assert int(span_id, 16)
    assert len(lines(stream)) == 5


def test_the_next_request_of_a_connection_has_a_span_of_its_own(stream):
    def connection() -> None:
        for value in (TRACE, TRACE, "nonsense"):
            tracing.begin({tracing.HEADER: value})
            structlog.get_logger("x").info("line")

    copy_context().run(connection)
    first, second, third = lines(stream)
    assert first["trace_id"] == second["trace_id"] == TRACE
    assert first["span_id"] != second["span_id"]
    assert "trace_id" not in third
    assert "span_id" not in third


def test_a_line_of_a_library_is_traced_too(stream):
    def request() -> None:
        tracing.begin({tracing.HEADER: TRACE})
        logging.getLogger("lib").error("odd")

    copy_context().run(request)
    (line,) = lines(stream)
    assert line["trace_id"] == TRACE
