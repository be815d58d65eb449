from __future__ import annotations

import asyncio

import pytest

from bulletin.cell.images.flights import Flights, FlightsEnded


class Work:
    """Counts how often it is started and how it ends."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()
        self.under_way = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> int:
        self.started += 1
        self.under_way.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return self.started


async def joined(flights: Flights[int], work: Work, count: int) -> list[asyncio.Task[int]]:
    waiters = [asyncio.create_task(flights.join("key", work)) for _ in range(count)]
    await work.under_way.wait()
    return waiters


async def test_all_wait_for_one() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    waiters = await joined(flights, work, 3)
    work.go_on.set()
    assert await asyncio.gather(*waiters) == [1, 1, 1]
    # It is not remembered: the next one starts afresh.
    assert await flights.join("key", work) == 2


async def test_other_keys_fly_on_their_own() -> None:
    flights: Flights[int] = Flights()
    first, second = Work(), Work()
    waiters = [asyncio.create_task(flights.join(key, work)) for key, work in (("a", first), ("b", second))]
    await first.under_way.wait()
    await second.under_way.wait()
    first.go_on.set()
    second.go_on.set()
    assert await asyncio.gather(*waiters) == [1, 1]


async def test_one_who_leaves_is_not_noticed() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    first, second = await joined(flights, work, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert work.cancelled == 0
    work.go_on.set()
    assert await second == 1


async def test_the_last_to_leave_cancels_it_and_the_next_starts_afresh() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    waiters = await joined(flights, work, 2)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    work.go_on.set()
    assert await flights.join("key", work) == 2
    assert work.cancelled == 1


async def test_a_failure_is_everyones() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    work.failure = ValueError("no")
    waiters = await joined(flights, work, 2)
    work.go_on.set()
    assert await asyncio.gather(*waiters, return_exceptions=True) == [work.failure, work.failure]


async def test_a_failure_nobody_waits_for_is_no_fuss() -> None:
    """The event loop complains of exceptions nobody looked at; the test runner makes that an error."""
    flights: Flights[int] = Flights()

    async def work() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("no") from None
        return 0

    waiter = asyncio.create_task(flights.join("key", work))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    await flights.end()


async def test_the_end_waits_for_all_and_tells_who_waits() -> None:
    flights: Flights[int] = Flights()
    work = Work()
    (waiter,) = await joined(flights, work, 1)
    ended: list[str] = []

    async def background() -> int:
        await asyncio.sleep(0)
        ended.append("background")
        return 0

    flights.start(background())
    await flights.end()
    assert ended == ["background"]
    assert work.cancelled == 1
    with pytest.raises(FlightsEnded):
        await waiter
