"""Logs as JSON lines."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime

import pytest
import structlog

from bulletin.telemetry.logging import configure


@pytest.fixture(autouse=True)
def _as_before():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line():
    stream = io.StringIO()
    configure("info", stream)
    structlog.get_logger("bulletin.cell.work").bind(task_guid="t").info("task.ended", failed=True, text="a\nb")
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "source", "message", "task_guid", "failed", "text"]
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    assert (line["level"], line["source"], line["message"]) == ("info", "bulletin.cell.work", "task.ended")
    assert (line["task_guid"], line["failed"], line["text"]) == ("t", True, "a\nb")


def test_what_is_below_the_level_is_left_out():
    stream = io.StringIO()
    configure("warning", stream)
    log = structlog.get_logger("x")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["message"] for line in lines(stream)] == ["c", "d"]


def test_a_level_that_is_none():
    with pytest.raises(ValueError, match="'loud' is none of debug, info, warning, error"):
        configure("loud")


def test_an_exception_is_told_without_its_variables():
    stream = io.StringIO()
    configure("info", stream)

    def use(secret):
        raise ValueError(len(secret))

    try:
        use("2retnuh"[::-1])  # so that the source line does not show it
    except ValueError:
        structlog.get_logger("x").exception("broken")
    (line,) = lines(stream)
    assert "ValueError: 7" in line["exception"]
    assert "hunter2" not in stream.getvalue()


def test_libraries_come_out_in_the_same_form():
    stream = io.StringIO()
    configure("debug", stream)
    logging.getLogger("aiohttp.server").warning("odd: %s", "thing")
    logging.getLogger("aiohttp.server").info("noise")
    (line,) = lines(stream)
    assert (line["level"], line["source"], line["message"]) == ("warning", "aiohttp.server", "odd: thing")


def test_configuring_again_replaces():
    first, second = io.StringIO(), io.StringIO()
    configure("info", first)
    configure("info", second)
    logging.getLogger("lib").error("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_standard_error_is_found_when_it_is_written_to(capsys):
    configure("info")
    structlog.get_logger("x").info("hello")
    assert json.loads(capsys.readouterr().err)["message"] == "hello"


def test_values_that_are_no_json_are_told_as_text(tmp_path):
    stream = io.StringIO()
    configure("info", stream)
    structlog.get_logger("x").info("path", path=tmp_path)
    assert lines(stream)[0]["path"] == str(tmp_path)
