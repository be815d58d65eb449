"""Changing the key at rest: every row is brought to the new one, a failure is taken up again, no key is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bulletin.board.app import Board
from bulletin.board.rotation import LABEL, LABELS_BEGUN, PROOFS, KeyMissing, Rotation, check_keys, make_sealer
from bulletin.board.settings import Address, BoardSettings
from bulletin.board.writer import Writer
from bulletin.core.lifecycle import Policy
from bulletin.core.operations import Desire
from bulletin.seams import RandomIds, SystemClock
from bulletin.store.api import BrokenRow
from bulletin.store.broken import BrokenStore, fail_always, fail_at, never_fail
from bulletin.store.sqlite import SqliteStore

A = {"a": "passphrase of a"}
B = {"b": "passphrase of b"}
C = {"c": "passphrase of c"}
TASKS = 250


class Vault:
    """A database and whoever works with it, one after the other, each with its own keys."""

    def __init__(self, path) -> None:
        self.path = path
        self.durations: list[float] = []
        self.fail = never_fail
        self.calls = 0

    @asynccontextmanager
    async def writer(self, settings: BoardSettings) -> AsyncIterator[tuple[Writer, Rotation]]:
        store = BrokenStore(SqliteStore(self.path, sealer=make_sealer(settings), clock=SystemClock()), self.fail)
        await store.open()
        lease = await store.acquire("vault", 60.0)
        configurations = await store.load_configurations()
        check_keys(configurations, settings)
        writer = Writer(
            store,
            lease,
            SystemClock(),
            Policy(),
            publish=lambda _events: None,
            perform=lambda _effects: None,
            retry_seconds=0.0,
        )
        running = asyncio.create_task(writer.run())
        try:
            await writer.load()
            yield writer, Rotation(writer, SystemClock(), settings, configurations, self.durations.append)
        finally:
            writer.stop()
            await asyncio.wait({running}, timeout=10)
            running.exception()
            self.calls = store.calls["commit"]
            await store.close()

    async def rotate(self, settings: BoardSettings) -> None:
        async with self.writer(settings) as (_writer, rotation):
            await rotation.begin()
            await rotation.run()

    async def sealed_with(self, settings: BoardSettings) -> int:
        """How many rows those keys open."""
        store = SqliteStore(self.path, sealer=make_sealer(settings), clock=SystemClock())
        await store.open()
        rows = [row async for chunk in store.load() for row in chunk]
        await store.close()
        return sum(not isinstance(row, BrokenRow) for row in rows)

    async def configurations(self) -> dict[str, str]:
        store = SqliteStore(self.path, sealer=make_sealer(keys()), clock=SystemClock())
        await store.open()
        found = await store.load_configurations()
        await store.close()
        return found


def keys(*mappings: dict[str, str], active: str = "") -> BoardSettings:
    together = {label: passphrase for mapping in mappings for label, passphrase in mapping.items()}
    return BoardSettings(encryption_keys=together, active_key_label=active)


@pytest.fixture
async def vault(tmp_path, definition) -> Vault:
    """Holds tasks in clear text."""
    made = Vault(tmp_path / "board.sqlite3")
    async with made.writer(keys()) as (writer, _rotation):
        for n in range(TASKS):
            writer.submit(Desire(f"g{n}", "d", definition(annotation=f"secret {n}")))
        await writer.settle()
    return made


async def test_without_keys_nothing_is_rotated_or_remembered(vault):
    commits = vault.calls
    assert commits > 0
    await vault.rotate(keys())
    assert vault.calls == 0
    assert await vault.configurations() == {}


async def test_clear_text_is_sealed_and_the_key_is_remembered(vault):
    await vault.rotate(keys(A, active="a"))
    assert b"secret" not in vault.path.read_bytes()
    assert await vault.sealed_with(keys()) == 0
    assert await vault.sealed_with(keys(A, active="a")) == TASKS
    found = await vault.configurations()
    assert (found[LABEL], found[LABELS_BEGUN]) == ("a", "[]")
    assert len(vault.durations) == 1
    await vault.rotate(keys(A, active="a"))
    assert vault.calls == 0, "it is there already"


async def test_the_old_key_may_go_after_a_rotation(vault):
    await vault.rotate(keys(A, active="a"))
    await vault.rotate(keys(A, B, active="b"))
    assert await vault.sealed_with(keys(A, active="a")) == 0
    async with vault.writer(keys(B, active="b")) as (writer, rotation):
        assert len(writer.tasks) == TASKS
        assert not rotation.is_due


async def test_tasks_change_while_they_are_rotated(vault, definition):
    async with vault.writer(keys(A, active="a")) as (writer, rotation):
        await rotation.begin()
        rotating = asyncio.create_task(rotation.run())
        await asyncio.sleep(0)
        writer.submit(Desire("new", "d", definition()))
        await rotating
        await writer.settle()
    assert await vault.sealed_with(keys(A, active="a")) == TASKS + 1
    assert await vault.sealed_with(keys()) == 0


@pytest.mark.parametrize("commit", [2, 3, 4])
async def test_a_rotation_that_failed_goes_on_at_the_next_start_and_both_keys_are_demanded(vault, commit):
    await vault.rotate(keys(A, active="a"))
    vault.fail = fail_at("commit", commit)
    await vault.rotate(keys(A, B, active="b"))
    vault.fail = never_fail
    assert vault.durations == vault.durations[:1], "the one that failed is not reported as done"
    found = await vault.configurations()
    assert found[LABEL] == "a"
    for missing in (keys(A, active="a"), keys(B, active="b"), keys()):
        with pytest.raises(KeyMissing):
            check_keys(found, missing)
    await vault.rotate(keys(A, B, active="b"))
    assert await vault.sealed_with(keys(B, active="b")) == TASKS
    check_keys(await vault.configurations(), keys(B, active="b"))


async def test_a_third_key_while_a_rotation_to_the_second_is_not_done(vault):
    await vault.rotate(keys(A, active="a"))
    vault.fail = fail_at("commit", 3)
    await vault.rotate(keys(A, B, active="b"))
    vault.fail = fail_at("commit", 2)
    await vault.rotate(keys(A, B, C, active="c"))
    vault.fail = never_fail
    with pytest.raises(KeyMissing, match="'b'"):
        check_keys(await vault.configurations(), keys(A, C, active="c"))
    await vault.rotate(keys(A, B, C, active="c"))
    assert await vault.sealed_with(keys(C, active="c")) == TASKS
    check_keys(await vault.configurations(), keys(C, active="c"))


async def test_back_to_the_first_key_rewrites_what_the_second_has_sealed(vault):
    await vault.rotate(keys(A, active="a"))
    vault.fail = fail_at("commit", 3)
    await vault.rotate(keys(A, B, active="b"))
    vault.fail = never_fail
    await vault.rotate(keys(A, B, active="a"))
    assert await vault.sealed_with(keys(A, active="a")) == TASKS
    check_keys(await vault.configurations(), keys(A, active="a"))


async def test_nothing_is_sealed_before_it_is_written_down(vault):
    """A board that dies right after ``begin`` could not be sure of the first row."""
    vault.fail = fail_always("commit")
    async with vault.writer(keys(A, active="a")) as (_writer, rotation):
        with pytest.raises(Exception, match="the store failed"):
            await rotation.begin()
    vault.fail = never_fail
    assert await vault.configurations() == {}
    async with vault.writer(keys(A, active="a")) as (_writer, rotation):
        await rotation.begin()
    with pytest.raises(KeyMissing, match="'a'"):
        check_keys(await vault.configurations(), keys())


async def test_another_passphrase_under_the_same_label_is_refused(vault):
    await vault.rotate(keys(A, active="a"))
    found = await vault.configurations()
    other = keys({"a": "mistyped"}, active="a")
    with pytest.raises(KeyMissing, match="another passphrase") as refused:
        check_keys(found, other)
    assert "mistyped" not in str(refused.value)
    assert A["a"] not in found[PROOFS]
    assert "bulletin" not in found[PROOFS]


async def test_a_board_without_the_key_does_not_start_and_deletes_nothing(vault):
    await vault.rotate(keys(A, active="a"))
    settings = BoardSettings(listen=Address("127.0.0.1", 0), converge_repeat_interval_seconds=0.01)
    board = Board(
        settings, SqliteStore(vault.path, sealer=make_sealer(settings), clock=SystemClock()), SystemClock(), RandomIds()
    )
    with pytest.raises(KeyMissing, match="labelled 'a'"):
        await asyncio.wait_for(board.run(), 20)
    assert await vault.sealed_with(keys(A, active="a")) == TASKS


async def test_a_board_rotates_while_it_serves(vault):
    settings = BoardSettings(listen=Address("127.0.0.1", 0), encryption_keys=A, active_key_label="a")
    board = Board(
        settings, SqliteStore(vault.path, sealer=make_sealer(settings), clock=SystemClock()), SystemClock(), RandomIds()
    )
    ready = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(board.run(ready))
    await asyncio.wait_for(ready, 20)
    http = board._http
    async with asyncio.timeout(20):
        while (await http.reign.store.load_configurations()).get(LABEL) != "a":
            await asyncio.sleep(0.01)
    assert await http.reign.writer.read("g0")
    board.stop()
    await asyncio.wait_for(running, 20)
    assert await vault.sealed_with(keys(A, active="a")) == TASKS
    assert await vault.sealed_with(keys()) == 0
