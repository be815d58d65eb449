"""Connections for callbacks against peers of every kind, on both event loops: the board's and the standard one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from bulletin.board import posting
from bulletin.board.dialling import Dialler
from bulletin.board.posting import Answer, Pool
from bulletin.board.settings import BoardSettings
from bulletin.core import limits
from bulletin.core.callbacks import ConnectionClosed, Failure, Unreachable
from bulletin.seams import SystemClock
from bulletin.wire.http1 import Origin

REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
TOLD = Answer(200, None)
BAD, GONE = Unreachable(Failure.MALFORMED_ANSWER), Unreachable(Failure.RESET)

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request) -> Run:
    def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        defects: list[dict[str, Any]] = []

        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
            async with asyncio.timeout(20):
                await story()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())
        assert defects == []

    return run


class Peer:
    """A server; ``answers`` are given one for each request, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]] = [OK]
        #: Whether to shut down the sending side after an answer.
        self.ends = False
        self.requests: list[bytes] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.lost = 0
        self.origin = Origin(False, "127.0.0.1", 0)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(OSError):
            while request := await reader.read(65536):
                self.requests.append(request)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if isinstance(answer, bytes):
                    writer.write(answer)
                    if self.ends:
                        writer.write_eof()
                else:
                    await answer(writer)
        self.lost += 1
        writer.close()


@contextlib.asynccontextmanager
async def meet(**settings: Any) -> AsyncIterator[tuple[Peer, Pool]]:
    peer = Peer()
    server = await asyncio.start_server(peer.talk, "127.0.0.1", 0)
    peer.origin = Origin(False, "127.0.0.1", server.sockets[0].getsockname()[1])
    pool = Pool(Dialler(BoardSettings(**settings), SystemClock()))
    yield peer, pool
    await pool.close()
    server.close()
    # An idle connection is closed by the pool, one under way by its end: none may outlive the test.
    await until(lambda: peer.lost == len(peer.connections))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


HEAD = b"HTTP/1.1 200 OK\r\n"
#: What Go's client makes of each was looked up with a program. Where the parser is stricter it says so.
ANSWERS = {
    "empty": (OK, TOLD, True),
    "a body": (HEAD + b"Content-Length: 2\r\n\r\nok", TOLD, True),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", TOLD, True),
    "no reason": (b"HTTP/1.1 204\r\n\r\n", Answer(204, None), True),
    "not modified": (b"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", Answer(304, None), True),
    "a location": (b"HTTP/1.1 302 X\r\nLocation: \t/y \r\nContent-Length: 0\r\n\r\n", Answer(302, "/y"), True),
    "a strange status": (b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n", Answer(999, None), True),
    "an early hint": (b"HTTP/1.1 103 Early\r\nLocation: /no\r\n\r\n" + OK, TOLD, True),
    "six times go on": (b"HTTP/1.1 100 Continue\r\n\r\n" * 6 + OK, TOLD, True),
    "lines without CR": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", TOLD, True),
    "keeps no connection": (HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n", TOLD, False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", TOLD, False),
    "a body to the end": (HEAD + b"\r\nbody", TOLD, False),
    "another protocol": (b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx", Answer(101, None), False),
    "a body without an end": (HEAD + b"Content-Length: 10\r\n\r\nab", TOLD, False),
    "a bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", TOLD, False),
    "a body where none may be": (b"HTTP/1.1 204 X\r\nContent-Length: 2\r\n\r\nab", Answer(204, None), False),
    "two answers": (OK + b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", TOLD, False),
    "503 cut off": (b"HTTP/1.1 503 X\r\nContent-Length: 10\r\n\r\nab", Answer(503, None), False),
    "nothing": (b"", GONE, False),
    "half a header": (b"HTTP/1.1 200 OK\r\nConte", GONE, False),
    "only hints": (b"HTTP/1.1 100 Continue\r\n\r\n", GONE, False),
    "no HTTP": (b"hello there\r\n\r\n", BAD, False),
    "a length of letters": (HEAD + b"Content-Length: x\r\n\r\n", BAD, False),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", BAD, False),
    "length and chunks": (HEAD + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD, False),
    "a status of four": (b"HTTP/1.1 1000 X\r\n\r\n", BAD, False),
    "a line too long": (HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", BAD, False),
    "too many lines": (HEAD + b"X: x\r\n" * 1_000 + b"\r\n", BAD, False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_an_answer_is_and_whether_its_connection_is_used_again(run, name):
    given, expected, is_kept = ANSWERS[name]

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [given]
            peer.ends = not is_kept
            for _ in range(3):
                assert await pool.exchange(peer.origin, REQUEST) == expected
                await until(lambda: pool._idle_count or peer.lost == len(peer.connections))
            assert len(peer.connections) == (1 if is_kept else 3)
            assert peer.requests == [REQUEST] * 3

    run(story)


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "nothing"])
def test_an_answer_is_the_same_byte_by_byte(run, name):
    given, expected, _ = ANSWERS[name]
    if len(given) > 1000:
        given = given[:300] + given[-20:]  # Bounds are not met so; that it is still told apart is enough.
        expected = TOLD

    async def trickle(writer: asyncio.StreamWriter) -> None:
        for index in range(len(given)):
            writer.write(given[index : index + 1])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [trickle]
            assert await pool.exchange(peer.origin, REQUEST) == expected

    run(story)


def test_a_connection_that_its_peer_closed_meanwhile_is_not_used(run):
    async def story() -> None:
        async with meet() as (peer, pool):
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            peer.connections[0].close()
            await until(lambda: peer.lost == 1)
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert (len(peer.connections), len(peer.requests)) == (2, 2)

    run(story)


def test_a_used_connection_closed_under_the_request_is_replaced_once(run):
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [OK, hang_up, OK]
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert (len(peer.connections), len(peer.requests)) == (2, 3)
            peer.answers = [hang_up]
            assert await pool.exchange(peer.origin, REQUEST) == GONE
            assert len(peer.requests) == 5

    run(story)


def test_a_used_connection_closed_in_the_middle_of_an_answer_is_not_replaced(run):
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200")
        writer.close()

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [OK, hang_up]
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert await pool.exchange(peer.origin, REQUEST) == GONE
            assert len(peer.requests) == 2

    run(story)


def test_an_answer_nobody_asked_for_is_not_taken_for_the_next_one(run):
    async def story() -> None:
        async with meet() as (peer, pool):
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            peer.connections[0].write(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")
            await until(lambda: peer.lost == 1)
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert len(peer.connections) == 2

    run(story)


def test_interim_answers_without_end_are_too_large(run):
    async def chatter(writer: asyncio.StreamWriter) -> None:
        for _ in range(100_000):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [chatter]
            assert await pool.exchange(peer.origin, REQUEST) == Unreachable(Failure.ANSWER_TOO_LARGE)

    run(story)


def test_a_body_without_bound_costs_its_connection_and_nothing_else(run):
    async def pour(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"x" * 65536)
            await writer.drain()

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [pour]
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            await until(lambda: peer.lost == 1)
            assert pool._idle_count == 0

    run(story)


def test_a_body_that_trickles_costs_its_connection_and_nothing_else(run, monkeypatch):
    monkeypatch.setattr(limits, "CALLBACK_DRAIN_SECONDS_MAX", 0.05)

    async def begin(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 10\r\n\r\nx")

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [begin]
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            await until(lambda: peer.lost == 1)

    run(story)


def test_a_body_that_comes_later_is_read_and_the_connection_used_again(run):
    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [HEAD + b"Content-Length: 4\r\n\r\nab"]
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert pool._idle_count == 0
            peer.connections[0].write(b"cd")
            await until(lambda: pool._idle_count == 1)
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert len(peer.connections) == 1

    run(story)


def test_an_answer_before_the_end_of_the_request_is_an_answer(run):
    async def story() -> None:
        read_on = asyncio.Event()

        async def early(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
            await read_on.wait()

        async with meet() as (peer, pool):
            peer.answers = [early]
            large = REQUEST[:-2].replace(b"Content-Length: 2", b"Content-Length: 20000000") + b"x" * 20_000_000
            assert await pool.exchange(peer.origin, large) == Answer(413, None)
            assert pool._idle_count == 0
            read_on.set()

    run(story)


def test_giving_up_closes_the_connection(run):
    async def silence(writer: asyncio.StreamWriter) -> None:
        return

    async def story() -> None:
        async with meet() as (peer, pool):
            peer.answers = [silence]
            waiting = asyncio.ensure_future(pool.exchange(peer.origin, REQUEST))
            await until(lambda: peer.requests)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled()
            await until(lambda: peer.lost == 1)
            assert pool._idle_count == 0

    run(story)


def test_requests_at_the_same_time_have_a_connection_each_and_few_stay(run, monkeypatch):
    monkeypatch.setattr(limits, "CALLBACK_ORIGIN_IDLE_CONNECTIONS_MAX", 3)

    async def story() -> None:
        async with meet() as (peer, pool):
            answers = await asyncio.gather(*(pool.exchange(peer.origin, REQUEST) for _ in range(8)))
            assert set(answers) == {TOLD}
            assert len(peer.connections) == 8
            await until(lambda: peer.lost == 5)
            assert pool._idle_count == 3

    run(story)


def test_idle_connections_are_bounded_over_all_origins(run, monkeypatch):
    monkeypatch.setattr(limits, "CALLBACK_IDLE_CONNECTIONS_MAX", 1)

    async def story() -> None:
        async with meet() as (peer, pool), meet() as (other, _):
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert await pool.exchange(other.origin, REQUEST) == TOLD
            await until(lambda: other.lost == 1)
            assert pool._idle_count == 1

    run(story)


def test_idle_connections_are_closed_after_a_while(run, monkeypatch):
    monkeypatch.setattr(limits, "CALLBACK_IDLE_SECONDS_MAX", 0.05)

    async def story() -> None:
        async with meet() as (peer, pool):
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            await until(lambda: peer.lost == 1)
            assert (pool._idle_count, pool._idle) == (0, {})
            assert await pool.exchange(peer.origin, REQUEST) == TOLD

    run(story)


def test_a_closed_pool_keeps_nothing(run):
    async def story() -> None:
        closed = asyncio.Event()

        async def late(writer: asyncio.StreamWriter) -> None:
            await closed.wait()
            writer.write(OK)

        async with meet() as (peer, pool):
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            peer.answers = [late]
            waiting = [asyncio.ensure_future(pool.exchange(peer.origin, REQUEST)) for _ in range(2)]
            await until(lambda: len(peer.requests) == 3)
            await pool.close()
            assert await asyncio.gather(*waiting) == [ConnectionClosed(), ConnectionClosed()]
            assert await pool.exchange(peer.origin, REQUEST) == ConnectionClosed()
            closed.set()
            assert (pool._idle_count, pool._idle, pool._open) == (0, {}, set())

    run(story)


def test_origins_do_not_share_connections(run):
    async def story() -> None:
        async with meet() as (peer, pool):
            assert await pool.exchange(peer.origin, REQUEST) == TOLD
            assert await pool.exchange(peer.origin._replace(host="localhost"), REQUEST) == TOLD
            assert len(peer.connections) == 2

    run(story)


def test_nobody_there(run):
    async def story() -> None:
        async with meet() as (_, pool):
            assert await pool.exchange(Origin(False, "127.0.0.1", 1), REQUEST) == Unreachable(Failure.REFUSED)

    run(story)


def test_the_parser_is_one_that_never_asks_to_wait():
    # What a socket gives at once has to stay below the parser's own bound, for reading is never paused.
    assert posting._PARSER_BYTES >= 16 * 256 * 1024
