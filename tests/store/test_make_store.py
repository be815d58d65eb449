"""``--data`` names a file or memory; anything else is refused plainly."""

from __future__ import annotations

import pytest

from bulletin.store import PlainSealer, StoreError, make_store
from bulletin.store.memory import MemoryStore
from bulletin.store.postgres import PostgresStore
from bulletin.store.sqlite import SqliteStore


def test_memory(clock) -> None:
    assert isinstance(make_store(":memory:", sealer=PlainSealer(), clock=clock), MemoryStore)


async def test_a_path_is_not_touched_before_it_is_opened(tmp_path, clock) -> None:
    path = tmp_path / "a" / "board.sqlite3"
    store = make_store(str(path), sealer=PlainSealer(), clock=clock)
    assert isinstance(store, SqliteStore)
    assert not path.parent.exists()
    await store.open()
    await store.close()
    assert path.exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_postgresql_is_not_dialled_before_it_is_opened(clock, scheme) -> None:
    store = make_store(f"{scheme}://user:hunter2@127.0.0.1:1/db", sealer=PlainSealer(), clock=clock)
    assert isinstance(store, PostgresStore)
    with pytest.raises(StoreError, match=f"^{scheme}://user@127.0.0.1:1/db: .*Refused"):
        await store.open()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            "mysql://u:hunter2@host",
            "there is no store at mysql://: name a file for SQLite, postgresql://..., or :memory:",
        ),
        ("", "no store is named: name a file for SQLite, postgresql://..., or :memory:"),
    ],
)
def test_what_is_not_supported_is_said(clock, data, text) -> None:
    with pytest.raises(StoreError) as raised:
        make_store(data, sealer=PlainSealer(), clock=clock)
    assert str(raised.value) == text
