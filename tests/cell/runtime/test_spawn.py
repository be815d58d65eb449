"""spawn.py: real processes, their ends and their output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest

from bulletin.cell.runtime import spawn
from bulletin.cell.runtime.linux import set_child_subreaper

SH = "/bin/sh"


@pytest.fixture(autouse=True)
def nothing_left():
    """No descriptor and no child may be left."""

    def look():
        return sorted(os.listdir("/proc/self/fd")), all_children()

    before = look()
    yield
    assert look() == before


def all_children():
    """The children of all threads, the session's other processes among them."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            found += Path(f"/proc/self/task/{task}/children").read_text().split()
    return sorted(found)


def kill_and_reap(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run(script, **options):
    options.setdefault("timeout_seconds", 30)
    return spawn.run([SH, "-c", script], **options)


async def test_status_and_output():
    assert await run("echo out; echo err >&2; exit 3") == spawn.Finished(3, b"out\n", b"err\n")


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137)])
async def test_statuses(script, status):
    assert (await run(script)).status == status


async def test_output_is_bounded_and_the_rest_is_read():
    finished = await run("head -c 1000000 /dev/zero; head -c 7 /dev/zero >&2; exit 5", output_bytes_max=10)
    assert finished == spawn.Finished(5, bytes(10), bytes(7))


async def test_there_is_no_input():
    assert (await run("cat; echo end")).stdout == b"end\n"


async def test_the_environment_is_a_plain_one_or_the_given(monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    assert b"hush" not in (await run("env")).stdout
    assert (await run('echo "$A"', env={"A": "b c"})).stdout == b"b c\n"


async def test_a_program_that_is_not_there():
    with pytest.raises(FileNotFoundError):
        await spawn.run(["/no/such/program"], timeout_seconds=1)


async def test_what_takes_too_long_is_killed_with_all_below_it():
    set_child_subreaper()
    with pytest.raises(spawn.CommandTimedOut, match=r"/bin/sh took longer than 0.2 s"):
        await run("sleep 1000 & sleep 1000", timeout_seconds=0.2)


async def test_cancelling_kills():
    set_child_subreaper()
    task = asyncio.ensure_future(run("sleep 1000 & sleep 1000"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_while_it_is_being_started_kills():
    started = []

    async def slow(command):
        started.append(spawn.start(command))
        task.cancel()
        await asyncio.sleep(0)
        return started[0]

    task = asyncio.ensure_future(run("sleep 1000", launch=slow))
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


async def test_a_daemon_that_keeps_the_output_open_does_not_hold_up_the_end():
    before = all_children()
    finished = await asyncio.wait_for(run("echo mine; sleep 5 > /dev/null & sleep 3 & exit 0"), 20)
    assert finished.stdout == b"mine\n"
    await reap_orphans(before)


async def reap_orphans(but):
    """As a subreaper this process inherited the sleepers of the test above."""
    for pid in all_children():
        if pid not in but:
            pidfd = os.pidfd_open(int(pid))
            await spawn.end_process(pidfd)
            os.close(pidfd)


async def test_ignored_signals_are_not_handed_on():
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        finished = await run("grep SigIgn /proc/self/status; grep SigBlk /proc/self/status")
    finally:
        signal.signal(signal.SIGPIPE, before[0])
        signal.signal(signal.SIGINT, before[1])
    ignored, blocked = (int(value, 16) for value in finished.stdout.split()[1::2])
    # Signals 32 and 33 are the C library's own; no program can change what it was started with.
    assert ignored & ~0x1_8000_0000 == 0
    assert blocked == 0


async def test_it_leads_its_own_process_group():
    fields = (await run("cat /proc/self/stat")).stdout.split()
    assert int(fields[4]) != os.getpgrp()


def open_descriptors():
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.append(int(name))
    return found


async def test_no_descriptor_comes_along_but_those_meant_to():
    reading, writing = os.pipe2(os.O_CLOEXEC)
    leaky = os.dup(reading)
    os.set_inheritable(leaky, False)
    try:
        finished = await run("ls /proc/self/fd; echo kept >&3", kept=(writing,))
        assert os.read(reading, 100) == b"kept\n"
    finally:
        for fd in (reading, writing, leaky):
            os.close(fd)
    # 0, 1, 2, the kept one, and the one ls reads the directory with; and what this process was itself started with.
    expected = {0, 1, 2, 3, 4, *(fd for fd in open_descriptors() if os.get_inheritable(fd))}
    assert {int(fd) for fd in finished.stdout.split()} <= expected


def test_descriptors_that_stand_in_each_others_way(tmp_path):
    """The kept ones have the numbers of the places of others."""
    files = [os.open(tmp_path / str(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC) for number in range(2)]
    low = [os.dup2(files[1], 3, inheritable=False) if not os.path.exists("/proc/self/fd/3") else None]
    try:
        command = spawn.Command((SH, "-c", "echo a >&3; echo b >&4"), kept=(files[1], files[0]))
        os.waitpid(spawn.start(command), 0)
        assert (tmp_path / "1").read_text() == "a\n"
        assert (tmp_path / "0").read_text() == "b\n"
    finally:
        for fd in (*files, *(fd for fd in low if fd is not None)):
            os.close(fd)


async def test_a_child_is_reaped_though_nobody_waits():
    child = spawn.Child(spawn.start(spawn.Command((SH, "-c", "exit 4"))))
    await asyncio.wait_for(child.wait(), 30)
    assert child.ended
    assert await child.wait() == 4
    child.signal(signal.SIGKILL)


async def test_cancelling_a_wait_leaves_the_child():
    child = spawn.Child(spawn.start(spawn.Command(("/bin/sleep", "1000"))))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.wait(), 0)
    assert not child.ended
    assert await child.kill()
    assert await child.wait() == 137


async def test_a_child_that_somebody_else_reaped():
    pid = spawn.start(spawn.Command(("/bin/sleep", "1000")))
    child = spawn.Child(pid)
    kill_and_reap(pid)
    with pytest.raises(ChildProcessError):
        await child.wait()


async def test_ending_strays_spares_what_is_watched_and_what_has_another_name():
    watched = spawn.Child(spawn.start(spawn.Command(("/bin/sleep", "1000"))))
    stray = spawn.start(spawn.Command(("/bin/sleep", "1001")))
    other = spawn.start(spawn.Command((SH, "-c", "read x")))
    await spawn.end_strays("sleep")
    with pytest.raises(ProcessLookupError):
        os.kill(stray, 0)
    assert not watched.ended
    kill_and_reap(other)
    await watched.kill()


# -- pipes ------------------------------------------------------------------------------------------------------


async def test_a_pipe_is_read_to_its_end_in_order():
    reading, writing = spawn.output_pipe()
    parts = []
    reader = spawn.PipeReader(reading, parts.append)
    os.write(writing, b"one")
    os.write(writing, b"two")
    os.close(writing)
    await reader.finish(30)
    assert b"".join(parts) == b"onetwo"
    await reader.finish(0)
    reader.close()


async def test_a_pipe_that_somebody_holds_is_given_up_with_what_is_there():
    reading, writing = spawn.output_pipe()
    parts = []
    reader = spawn.PipeReader(reading, parts.append)
    os.write(writing, b"there")
    await reader.finish(0)
    assert parts == [b"there"]
    os.close(writing)


async def test_a_closed_reader_says_nothing_more():
    reading, writing = spawn.output_pipe()
    parts = []
    reader = spawn.PipeReader(reading, parts.append)
    os.write(writing, b"lost")
    reader.close()
    await asyncio.sleep(0)
    assert parts == []
    os.close(writing)


def test_only_the_reading_side_never_blocks():
    reading, writing = spawn.output_pipe()
    assert not os.get_blocking(reading)
    assert os.get_blocking(writing)
    assert not os.get_inheritable(reading)
    assert not os.get_inheritable(writing)
    os.close(reading)
    os.close(writing)
