"""One piece of work for however many wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bulletin.cell.images.tools import finish

__all__ = ["Flights", "FlightsEnded"]

_T = TypeVar("_T")


class FlightsEnded(Exception):
    """The work was given up because everything is being closed."""


@dataclass(slots=True)
class _Flight(Generic[_T]):
    task: asyncio.Task[_T]
    waiters: int = 0


class Flights(Generic[_T]):
    """Single flight: at most one piece of work per key is under way. Used on one loop.

    A waiter may be cancelled at any time; when the last one is, the work is cancelled too. Whoever comes after that
    starts afresh. An error of the work is raised to every waiter.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[_T]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Wait for the work of ``key``, which is started if it is not under way.

        Raises:
            FlightsEnded: ``end`` was called meanwhile.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(self.start(work()))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if flight.task.cancelled() and waiter is not None and not waiter.cancelling():
                raise FlightsEnded from None
            raise
        finally:
            flight.waiters -= 1
            if flight.task.done() or not flight.waiters:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start work nobody waits for but ``end``."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._land)
        return task

    async def end(self) -> None:
        """Cancel every flight, and wait for it and for all other work to end."""
        for flight in self._flights.values():
            flight.task.cancel()
        while self._tasks:
            await finish(asyncio.wait(self._tasks))

    def _land(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Every waiter has been told; with none left it is of no interest.
