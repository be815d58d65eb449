"""The composition root: ready, signals, exit statuses, one cell a directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import replace

import pytest
import structlog

from bulletin.cell import app
from bulletin.cell.runtime.api import RuntimeUnusable
from bulletin.cell.settings import CellSettings


@pytest.fixture(autouse=True)
def _plain_logging_afterwards():
    yield
    structlog.reset_defaults()


def opening(runtime):
    @contextlib.asynccontextmanager
    async def open_runtime(_settings):
        try:
            await runtime.open()
            yield runtime
        finally:
            await runtime.close()

    return open_runtime


@pytest.fixture
def settings(board, tmp_path):
    return CellSettings(board_url=board.url, data=tmp_path / "cell", cell_id="cell-1", graceful_shutdown_seconds=0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_cell_serves_until_it_is_told_to_stop(board, runtime, settings, script, capfd, number):
    runtime.processes["/bin/task"] = script(hang="until TERM")
    serving = asyncio.create_task(app.serve(settings, opening(runtime)))
    await board.hello()
    await board.start()
    await runtime.until("spawned", "/bin/task")
    os.kill(os.getpid(), number)
    assert await serving == 0
    assert runtime.opened
    assert runtime.closed
    assert runtime.did("destroy") == ["task-1"]
    out, err = capfd.readouterr()
    assert out == "ready cell-1\n"
    for line in err.splitlines():
        assert list(json.loads(line))[:4] == ["timestamp", "level", "source", "message"]


async def test_two_cells_never_share_a_directory(board, runtime, settings, capfd):
    serving = asyncio.create_task(app.serve(settings, opening(runtime)))
    await board.hello()
    other = replace(settings, cell_id="cell-2")
    assert await app.serve(other, opening(runtime)) == 1
    assert "another cell uses" in capfd.readouterr().err
    os.kill(os.getpid(), signal.SIGTERM)
    assert await serving == 0


async def test_settings_that_cannot_be(settings, capfd):
    assert await app.serve(replace(settings, containers=0)) == 2
    assert capfd.readouterr().err == "error: containers: must be from 1 to 20000, not 0\n"
    assert await app.serve(replace(settings, log_level="loud")) == 2
    assert "error: log-level: 'loud'" in capfd.readouterr().err


async def test_a_machine_that_runs_no_container(runtime, settings, capfd):
    async def fail():
        raise RuntimeUnusable("no OCI runtime; install crun: apt-get install crun")

    runtime.open = fail
    assert await app.serve(settings, opening(runtime)) == 1
    assert "error: the cell cannot run: no OCI runtime; install crun" in capfd.readouterr().err
    assert runtime.closed


async def test_a_directory_that_cannot_be(settings, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert await app.serve(replace(settings, data=tmp_path / "file" / "cell")) == 1
    assert "error: the cell cannot run" in capfd.readouterr().err
