"""Durable tasks: one small Protocol (``api.Store``), kept by PostgreSQL, by SQLite and by memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from bulletin.store.api import Batch, BrokenRow, Lease, LeaseHeld, LeaseLost, Output, Store, StoreError
from bulletin.store.sealing import KeySealer, PlainSealer, Sealer, Unsealable

if TYPE_CHECKING:
    from bulletin.seams import Clock

__all__ = [
    "Batch",
    "BrokenRow",
    "KeySealer",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "Output",
    "PlainSealer",
    "Sealer",
    "Store",
    "StoreError",
    "Unsealable",
    "make_store",
]

_STORES: Final = "name a file for SQLite, postgresql://..., or :memory:"


def make_store(data: str, *, sealer: Sealer, clock: Clock) -> Store:
    """The store that ``--data`` names, not yet open.

    Args:
        data: a path for SQLite; ``postgresql://...`` for PostgreSQL (``postgres_lane.Target``), which several boards
            on several machines may share; or ``:memory:`` for a store that forgets everything when the program ends.
        sealer: what definitions pass through on their way to disk.
        clock: tells when a lease has run out; PostgreSQL goes by the database's own.

    Raises:
        StoreError: ``data`` names a store this program does not have.
    """
    if data == ":memory:":
        from bulletin.store.memory import MemoryStore

        return MemoryStore(clock=clock)
    scheme, separator, _ = data.partition("://")
    if separator:
        if scheme not in {"postgres", "postgresql"}:
            # The rest of a URL may hold a password, so only its scheme is repeated.
            raise StoreError(f"there is no store at {scheme}://: {_STORES}")
        from bulletin.store.postgres import PostgresStore

        return PostgresStore(data, sealer=sealer)
    if not data:
        raise StoreError(f"no store is named: {_STORES}")
    from bulletin.store.sqlite import SqliteStore

    return SqliteStore(Path(data), sealer=sealer, clock=clock)
