"""Certificates that end soon are told of, and others are not."""

from __future__ import annotations

import datetime as dt

import pytest

from bulletin.trust.authority import Purpose
from bulletin.trust.directory import Order, create
from bulletin.trust.expiry import tell_end

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def cert(tmp_path):
    create(tmp_path / "certs", [Order("board", Purpose.BOARD, hosts=("h",))], NOW, days=100)
    return tmp_path / "certs" / "board.pem"


@pytest.mark.parametrize(
    ("days", "words"), [(0, ""), (69, ""), (70, "ends on"), (99, "ends on"), (100, "ended on"), (1000, "ended on")]
)
def test_the_last_month_is_told(cert, days, words):
    told = tell_end(cert, NOW + dt.timedelta(days=days))
    assert words in told
    assert bool(words) == bool(told)
    assert not told or "bulletin certs renew" in told


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_what_cannot_be_looked_at_is_said(cert, content):
    if content is None:
        cert.unlink()
    else:
        cert.write_bytes(content)
    assert "cannot be looked at" in tell_end(cert, NOW)
