"""A cell's settings: what is refused and how, and what a machine offers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bulletin.cell.settings import CellSettings, SettingError, parse_amount, read_capacity
from bulletin.core.model import Resources


def test_the_defaults_can_be():
    settings = CellSettings()
    settings.check()
    assert settings.cell_id == os.uname().nodename
    assert settings.containers == 249
    assert settings.graceful_shutdown_seconds == 10.0
    assert settings.board_urls == ("http://127.0.0.1:8889",)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"board_url": "127.0.0.1:8889"}, "is not http://HOST:PORT"),
        ({"board_url": "ftp://board"}, "is not http://HOST:PORT"),
        ({"board_url": "http://"}, "is not http://HOST:PORT"),
        ({"board_url": "http://board:99999"}, "is not a URL"),
        ({"board_url": "http://board.example:8889"}, "--insecure-plain-http"),
        ({"board_url": "http://10.0.0.1:8889"}, "--insecure-plain-http"),
        ({"cell_id": ""}, "id: must have 1 to 255 characters"),
        ({"cell_id": "x" * 256}, "not 256"),
        ({"memory_mb": 0}, "memory limit must be a positive number or 'auto'"),
        ({"memory_mb": -1}, "memory limit must be a positive number or 'auto'"),
        ({"disk_mb": 0}, "disk limit must be a positive number or 'auto'"),
        ({"containers": 0}, "containers: must be from 1"),
        ({"containers": 1_000_000}, "containers: must be from 1"),
        ({"engine": "docker"}, "is none of auto, crun, runc"),
        ({"graceful_shutdown_seconds": -1.0}, "must be 0 or more"),
        ({"link_heartbeat_seconds": 0.0}, "must be more than 0"),
    ],
)
def test_what_cannot_be_is_refused(fields, text):
    with pytest.raises(SettingError) as refused:
        CellSettings(**fields).check()
    assert text in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://127.0.0.1:8889/", "http://[::1]:8889", "http://127.0.0.1:1, http://[::1]:2"]
)
def test_boards_that_may_be_dialled(url):
    CellSettings(board_url=url).check()


def test_plain_http_elsewhere_has_to_be_allowed():
    CellSettings(board_url="http://10.0.0.1:8889", insecure_plain_http=True).check()


@pytest.mark.parametrize(("text", "amount"), [("auto", None), ("1", 1), ("4096", 4096)])
def test_amounts(text, amount):
    assert parse_amount(text, "memory-mb") == amount


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "lots", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_amounts_that_are_none(text):
    with pytest.raises(SettingError, match="memory-mb"):
        parse_amount(text, "memory-mb")


def test_a_capacity_that_was_set(tmp_path):
    settings = CellSettings(data=tmp_path, memory_mb=100, disk_mb=200, containers=3)
    assert read_capacity(settings, tmp_path / "missing") == Resources(100, 200, 3)


def test_a_capacity_of_the_machine(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24585632 kB\nMemFree:         1000 kB\n")
    capacity = read_capacity(CellSettings(data=tmp_path), meminfo)
    assert capacity.memory_mb == 24009
    disk = os.statvfs(tmp_path)
    assert 0 < capacity.disk_mb <= disk.f_blocks * disk.f_frsize >> 20
    assert capacity.containers == 249


def test_this_machine_has_a_capacity(tmp_path):
    assert read_capacity(CellSettings(data=tmp_path)).memory_mb > 0


@pytest.mark.parametrize("text", ["", "MemFree: 5 kB\n", "MemTotal:\n", "MemTotal: many kB\n"])
def test_a_machine_that_does_not_tell_its_memory(tmp_path, text):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    with pytest.raises(SettingError, match="does not name MemTotal; set it"):
        read_capacity(CellSettings(data=tmp_path), meminfo)


def test_a_machine_whose_files_are_missing(tmp_path):
    with pytest.raises(SettingError, match="memory-mb: .* cannot be read"):
        read_capacity(CellSettings(data=tmp_path), tmp_path / "missing")
    with pytest.raises(SettingError, match="disk-mb: .* cannot be looked at"):
        read_capacity(CellSettings(data=Path("/nonexistent/x"), memory_mb=1))
