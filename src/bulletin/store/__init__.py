"""Durable tasks: one small Protocol (``api.Store``), kept by SQLite and by memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bulletin.store.api import Batch, BrokenRow, Lease, LeaseHeld, LeaseLost, Output, Store, StoreError
from bulletin.store.sealing import PlainSealer, Sealer, Unsealable

if TYPE_CHECKING:
    from bulletin.seams import Clock

__all__ = [
    "Batch",
    "BrokenRow",
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


def make_store(data: str, *, sealer: Sealer, clock: Clock) -> Store:
    """The store that ``--data`` names, not yet open.

    Args:
        data: a path for SQLite, or ``:memory:`` for a store that forgets everything when the program ends.
        sealer: what definitions pass through on their way to disk.
        clock: tells when a lease has run out.

    Raises:
        StoreError: ``data`` names a store this program does not have.
    """
    if data == ":memory:":
        from bulletin.store.memory import MemoryStore

        return MemoryStore(clock=clock)
    scheme, separator, _ = data.partition("://")
    if separator:
        # The rest of a URL may hold a password, so only its scheme is repeated.
        what = "PostgreSQL" if scheme in {"postgres", "postgresql"} else f"a store at {scheme}://"
        raise StoreError(f"{what} is not supported yet: name a file for SQLite, or :memory:")
    if not data:
        raise StoreError("no store is named: name a file for SQLite, or :memory:")
    from bulletin.store.sqlite import SqliteStore

    return SqliteStore(Path(data), sealer=sealer, clock=clock)
