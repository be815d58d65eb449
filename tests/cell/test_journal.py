"""The journal: what it remembers, what a crash may do to it, how it stays small."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulletin.cell.journal import Journal, JournalError
from bulletin.core.cellwork import Completion, Rejection

DONE = Completion(False, "", "result\n\N{OCTOPUS}\x00")
FAILED = Completion(True, "LOG: Exited with status 1")
REJECTED = Rejection("failed to create container: x")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


async def opened(path, **more):
    journal = Journal(path, **more)
    journal.open()
    return journal


async def remembered(path):
    journal = await opened(path)
    await journal.close()
    return journal.owed, journal.lost


async def test_an_empty_journal(path):
    assert await remembered(path) == ({}, ())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_outcomes_are_owed_until_they_are_settled(path):
    journal = await opened(path)
    for guid, outcome in (("a", DONE), ("b", FAILED), ("c", REJECTED), ("d", DONE)):
        journal.accepted(guid)
        journal.outcome(guid, outcome)
    journal.settled("b")
    journal.accepted("e")
    journal.settled("never heard of")
    await journal.close()
    assert await remembered(path) == ({"a": DONE, "c": REJECTED, "d": DONE}, ("e",))


async def test_lost_tasks_are_named_once(path):
    journal = await opened(path)
    journal.accepted("a")
    await journal.close()
    assert await remembered(path) == ({}, ("a",))
    assert await remembered(path) == ({}, ())


async def test_a_guid_may_come_again(path):
    journal = await opened(path)
    journal.outcome("a", FAILED)
    journal.settled("a")
    journal.accepted("a")
    journal.outcome("a", DONE)
    await journal.close()
    assert await remembered(path) == ({"a": DONE}, ())


async def test_a_line_is_in_the_kernel_when_the_call_returns(path):
    journal = await opened(path)
    journal.outcome("a", DONE)
    assert (await remembered_copy(path)).owed == {"a": DONE}
    await journal.close()


async def remembered_copy(path):
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    journal = await opened(copy)
    await journal.close()
    return journal


async def test_every_torn_end_keeps_what_was_whole(path):
    journal = await opened(path)
    journal.outcome("a", DONE)
    whole = len(path.read_bytes())
    journal.outcome("b", FAILED)
    await journal.close()
    content = path.read_bytes()
    for cut in range(whole, len(content) - 1):
        path.write_bytes(content[:cut])
        owed, _ = await remembered(path)
        assert owed == {"a": DONE}, cut
        assert path.read_bytes() == content[:whole], "the torn end is gone"
    path.write_bytes(content[:-1])  # all but the newline: the line is whole
    assert (await remembered(path))[0] == {"a": DONE, "b": FAILED}
    assert path.read_bytes() == content


async def test_a_damaged_line_costs_only_itself(path):
    journal = await opened(path)
    for guid in "abc":
        journal.outcome(guid, DONE)
    await journal.close()
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b"result", b"resolt")
    path.write_bytes(b"\n".join(lines))
    assert await remembered(path) == ({"a": DONE, "c": DONE}, ())


async def test_it_stays_small(path):
    journal = await opened(path, bytes_max=2000)
    journal.outcome("kept", DONE)
    for number in range(200):
        journal.accepted(f"task-{number}")
        journal.outcome(f"task-{number}", FAILED)
        journal.settled(f"task-{number}")
        assert path.stat().st_size <= 2000
    await journal.close()
    assert await remembered(path) == ({"kept": DONE}, ())
    assert path.stat().st_size < 200


async def test_what_is_owed_may_make_it_longer(path):
    journal = await opened(path, bytes_max=500)
    for number in range(100):
        journal.outcome(f"task-{number}", FAILED)
    await journal.close()
    assert len((await remembered(path))[0]) == 100


async def test_a_disk_that_takes_half_a_line(path, monkeypatch):
    journal = await opened(path)
    journal.outcome("a", DONE)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: len(data) // 2]))
    with pytest.raises(JournalError, match="the disk took"):
        journal.outcome("b", FAILED)
    monkeypatch.undo()
    journal.outcome("c", FAILED)
    await journal.close()
    assert await remembered(path) == ({"a": DONE, "c": FAILED}, ())


async def test_a_disk_that_is_full(path, monkeypatch):
    journal = await opened(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="No space left on device"):
        journal.accepted("a")
    monkeypatch.undo()
    await journal.close()
    assert await remembered(path) == ({}, ())


async def test_a_sync_that_fails_is_survived(path, monkeypatch):
    journal = await opened(path)
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(_):
        loop.call_soon_threadsafe(failed.set)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    journal.outcome("a", DONE)
    await failed.wait()
    monkeypatch.undo()
    journal.outcome("b", DONE)
    await journal.close()
    assert set((await remembered(path))[0]) == {"a", "b"}


@pytest.fixture
async def syncs(monkeypatch):
    """How big the journal was each time it was brought to the disk, and an event set when it was."""
    sizes = []
    synced = asyncio.Event()
    loop = asyncio.get_running_loop()

    def sync(descriptor):
        sizes.append(os.fstat(descriptor).st_size)
        loop.call_soon_threadsafe(synced.set)

    monkeypatch.setattr(os, "fdatasync", sync)
    return sizes, synced


async def test_an_outcome_nobody_acknowledges_reaches_the_disk(path, syncs):
    journal = await opened(path)
    sizes, synced = syncs
    await synced.wait()  # opening does it too
    sizes.clear()
    synced.clear()
    for number in range(100):
        journal.outcome(f"task-{number}", DONE)
    await synced.wait()
    assert sizes == [path.stat().st_size], "one for all"
    await journal.close()
    assert len(sizes) == 1


async def test_an_outcome_that_is_acknowledged_at_once_costs_no_sync(path, syncs):
    journal = await opened(path)
    sizes, _ = syncs
    sizes.clear()
    journal.outcome("a", DONE)
    journal.settled("a")
    await journal.close()
    assert sizes == []


async def test_closing_brings_the_rest_to_the_disk(path, syncs):
    journal = await opened(path)
    sizes, _ = syncs
    sizes.clear()
    journal.outcome("a", DONE)
    await journal.close()
    assert sizes == [path.stat().st_size]


async def test_a_path_that_cannot_be(tmp_path):
    journal = Journal(tmp_path / "missing" / "journal")
    with pytest.raises(JournalError, match="cannot be opened"):
        journal.open()
    await journal.close()


async def test_a_symlink_is_not_followed(path, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    path.with_suffix(".new").symlink_to(target)
    journal = Journal(path)
    with pytest.raises(JournalError):
        journal.open()
    await journal.close()
    assert target.read_bytes() == b"precious"


def test_it_survives_kill_9(path):
    """A process writes until it is killed; everything it says it wrote is there."""
    child = """
import asyncio, sys
from pathlib import Path
from bulletin.cell.journal import Journal
from bulletin.core.cellwork import Completion
async def main():
    journal = Journal(Path(sys.argv[1]), bytes_max=3000)
    journal.open()
    for number in range(10**9):
        journal.outcome(f"t{number}", Completion(False, "", "r"))
        if number >= 5:
            journal.settled(f"t{number - 5}")
        print(number, flush=True)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", child, str(path)], stdout=subprocess.PIPE, text=True)
    last = 0
    for line in process.stdout:
        last = int(line)
        if last >= 300:
            break
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    last = int(rest[-1]) if rest else last
    journal = Journal(path)
    journal.open()
    asyncio.run(journal.close())
    owed = {int(guid[1:]) for guid in journal.owed}
    assert owed >= set(range(last - 4, last + 1))
    assert owed <= set(range(last - 6, last + 2))


operations = st.lists(
    st.tuples(
        st.sampled_from(["accepted", "done", "failed", "rejected", "settled"]), st.sampled_from(["a", "b", "c", "d"])
    ),
    max_size=40,
)


@settings(max_examples=50)
@given(operations, st.integers(1, 400))
def test_any_history_is_remembered(tmp_path_factory, history, bytes_max):
    path = tmp_path_factory.mktemp("journal") / "journal"
    owed, lost = {}, {}

    async def write():
        journal = await opened(path, bytes_max=bytes_max)
        for what, guid in history:
            outcome = {"done": DONE, "failed": FAILED, "rejected": REJECTED}.get(what)
            owed.pop(guid, None)
            lost.pop(guid, None)
            if what == "accepted":
                journal.accepted(guid)
                lost[guid] = True
            elif what == "settled":
                journal.settled(guid)
            else:
                journal.outcome(guid, outcome)
                owed[guid] = outcome
        await journal.close()
        return await remembered(path)

    found, missing = asyncio.run(write())
    assert found == owed
    assert set(missing) == set(lost)
