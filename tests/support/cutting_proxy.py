"""Stands between a client and a PostgreSQL server, and fails at a chosen request as networks do."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from enum import Enum

__all__ = ["Cut", "CuttingProxy"]

#: The client waits for an answer to these: a query, a sync, a flush.
_REQUESTS = b"QSH"
_ANSWER_SECONDS = 20.0


class Cut(Enum):
    """What becomes of a request."""

    #: The connection breaks, and the server never saw it.
    BEFORE = "before"
    #: The server did it, and the connection breaks before its answer.
    AFTER = "after"
    #: Nothing comes back, and nothing breaks.
    SILENCE = "silence"
    #: The connection breaks for the client; the request comes to the server when ``deliver`` is called.
    LATE = "late"


class CuttingProxy:
    """Counts requests over all connections, from 1; ``decide`` says what becomes of each.

    Args:
        port: the server's, on the loopback.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._late: list[tuple[asyncio.StreamWriter, asyncio.StreamReader, bytes]] = []
        self.decide: Callable[[int], Cut | None] = lambda _number: None
        self.requests = 0
        self.cuts = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[CuttingProxy]:
        """Listen until the end of the block; afterwards nothing of it is left."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._listener.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            for writer, _, _ in self._late:
                writer.close()

    def url(self, server_url: str) -> str:
        """``server_url`` by way of this proxy."""
        assert self._listener is not None
        port = self._listener.sockets[0].getsockname()[1]
        return server_url.replace(f":{self._server_port}/", f":{port}/")

    async def deliver(self) -> None:
        """Let late requests come to the server now, and wait until it is done with them."""
        late, self._late = self._late, []
        for writer, reader, request in late:
            writer.write(request)
            await writer.drain()
            await _read_answer(reader)
            writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # either side hung up, or the test is over
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        answers: asyncio.Task[None] | None = None
        keep_server = False
        try:
            while await _relay_startup(client, to_server):
                # The answer to a question about encryption: no.
                to_client.write(await server.readexactly(1))
            answers = asyncio.create_task(_pump(server, to_client))
            pending = b""
            while True:
                header = await client.readexactly(5)
                pending += header + await client.readexactly(struct.unpack(">I", header[1:])[0] - 4)
                if header[:1] == b"X" or header[0] not in _REQUESTS:
                    if header[:1] in b"Xp":
                        to_server.write(pending)
                        pending = b""
                    continue
                self.requests += 1
                match self.decide(self.requests):
                    case None:
                        to_server.write(pending)
                        pending = b""
                        continue
                    case Cut.SILENCE:
                        self.cuts += 1
                        await asyncio.Event().wait()
                    case Cut.BEFORE:
                        self.cuts += 1
                    case Cut.AFTER:
                        self.cuts += 1
                        answers.cancel()
                        await asyncio.gather(answers, return_exceptions=True)
                        to_server.write(pending)
                        await _read_answer(server, flushed=header[:1] == b"H")
                    case Cut.LATE:
                        assert header[:1] != b"H", "only a preparation would be late, and that changes nothing"
                        self.cuts += 1
                        answers.cancel()
                        await asyncio.gather(answers, return_exceptions=True)
                        self._late.append((to_server, server, pending))
                        keep_server = True
                return
        finally:
            if answers is not None:
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
            if not keep_server:
                to_server.transport.abort()


async def _relay_startup(client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> bool:
    """Pass on a packet of the beginning; True when it only asks for encryption."""
    length = await client.readexactly(4)
    body = await client.readexactly(struct.unpack(">I", length)[0] - 4)
    to_server.write(length + body)
    return struct.unpack(">I", body[:4])[0] in {80877103, 80877104}


async def _pump(server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while content := await server.read(65536):
            to_client.write(content)
            await to_client.drain()
    to_client.transport.abort()


async def _read_answer(server: asyncio.StreamReader, *, flushed: bool = False) -> None:
    """Wait until the server is done: it says that it is ready or, after a flush, says anything."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        while True:
            header = await server.readexactly(5)
            await server.readexactly(struct.unpack(">I", header[1:])[0] - 4)
            if header[:1] == b"Z" or flushed:
                return
