from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulletin.cell.images.repository import Workspace
from bulletin.cell.images.tools import (
    TooLarge,
    ToolFailed,
    Usage,
    find_tool,
    finish,
    measure,
    remove_tree,
    run_tool,
    walk,
    watch_disk,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path, os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    yield made
    made.close()


async def test_a_tool_gets_limits_a_plain_umask_and_the_lock(workspace, tmp_path) -> None:
    before = os.umask(0o077)
    try:
        script = 'umask; ulimit -c; ulimit -f; ls -l /proc/self/fd/3; echo "$HOME" >&2; exit 3'
        finished = await run_tool(workspace, ("sh", "-c", script), timeout_seconds=30, file_bytes_max=1024)
    finally:
        os.umask(before)
    umask, core, blocks, descriptor = finished.stdout.decode().splitlines()
    assert (umask, core, blocks) == ("0022", "0", "3")
    assert descriptor.endswith(f"-> {tmp_path}")
    assert finished.status == 3


async def test_a_tool_cannot_write_a_larger_file(workspace, tmp_path) -> None:
    command = ("sh", "-c", f"head -c 100000 /dev/zero > {tmp_path}/large")
    with pytest.raises(TooLarge, match="a file of it is larger than 5000 bytes"):
        await run_tool(workspace, command, timeout_seconds=30, file_bytes_max=5000)


async def test_a_tool_that_takes_too_long_is_ended(workspace) -> None:
    with pytest.raises(ToolFailed, match=r"sleep took longer than 0\.05 s"):
        await run_tool(workspace, ("sleep", "60"), timeout_seconds=0.05, file_bytes_max=0)


async def test_a_missing_tool_is_named(workspace) -> None:
    with pytest.raises(ToolFailed, match="no-such-tool is not installed"):
        await run_tool(workspace, ("no-such-tool",), timeout_seconds=30, file_bytes_max=0)
    with pytest.raises(ToolFailed, match="apt-get install"):
        find_tool("no-such-tool")


def test_a_tree_is_measured_without_following_links(tmp_path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").write_bytes(b"x" * 100_000)
    os.link(tree / "below" / "file", tree / "again")
    (tree / "out").symlink_to("/")
    usage = measure(tree, 10**9, 100)
    assert usage.entries == 4
    assert 100_000 <= usage.used_bytes < 130_000
    assert measure(tree, 10**9, 100, own_only=True).used_bytes < 30_000
    with pytest.raises(TooLarge, match="takes more than 50000 bytes"):
        measure(tree, 50_000, 100)
    with pytest.raises(TooLarge, match="more than 3 files"):
        measure(tree, 10**9, 3)


def test_a_tree_that_is_not_there_is_empty(tmp_path) -> None:
    assert measure(tmp_path / "nowhere", 1, 1) == Usage(0, 0)


def test_a_sparse_file_takes_what_it_takes(tmp_path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10**12)
    assert measure(tmp_path, 10**6, 10).used_bytes < 10**6


async def test_any_depth_is_walked_and_removed(tmp_path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    try:
        fd = os.open(top, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        assert sum(1 for _ in walk(top)) == 1500
    finally:
        await remove_tree(top)
    assert not top.exists()


async def test_what_cannot_be_removed_is_said(tmp_path) -> None:
    with pytest.raises(ToolFailed, match="cannot remove"):
        await remove_tree(Path("/proc/self/status"))
    await remove_tree(tmp_path / "nowhere")


async def test_a_look_that_finds_too_much_ends_the_work() -> None:
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def look() -> Usage:
        raise TooLarge("too much")

    with pytest.raises(TooLarge, match="too much"):
        await watch_disk(work(), look, lambda _: None)
    assert cancelled.is_set()


async def test_looks_are_reported_while_the_work_goes_on() -> None:
    looked = asyncio.Event()
    heard: list[Usage] = []

    async def work() -> str:
        await looked.wait()
        return "done"

    def hear(usage: Usage) -> None:
        heard.append(usage)
        looked.set()

    assert await watch_disk(work(), lambda: Usage(5, 1), hear) == "done"
    assert heard == [Usage(5, 1)]


async def test_work_that_must_be_finished_is_finished_before_a_cancellation() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        started.set()
        await go_on.wait()
        done.append("done")

    task = asyncio.create_task(finish(work()))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["done"]


async def test_finished_work_answers_and_fails() -> None:
    async def answer() -> int:
        return 4

    async def fail() -> int:
        raise ValueError("no")

    assert await finish(answer()) == 4
    with pytest.raises(ValueError, match="no"):
        await finish(fail())
