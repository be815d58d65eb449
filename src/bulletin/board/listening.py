"""Listening: TCP or mutual TLS in, connections for the HTTP server out (board-api.md 1.1).

On a TLS port the first byte is looked at before the handshake, so that plain HTTP gets an answer people understand.
Handshakes are bounded in number and time. When there are too many, more wait in the system's queue, and one that has
taken its time gives way: a crowd that dials at once gets in one after the other, and peers that send nothing keep
nobody out for long. At most one handshake is begun in a turn of the loop: it costs as much as ten requests, and must
not stop connections that stand.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import structlog

from bulletin.board.handshakes import Complaints, explain, listening_context, own_connection
from bulletin.board.settings import Address
from bulletin.core import limits
from bulletin.trust.contexts import ContextSource
from bulletin.trust.expiry import tell_end
from bulletin.trust.files import TlsFiles

__all__ = ["Listener", "listen"]

log = structlog.get_logger("bulletin.board.listening")

_BACKLOG: Final = 1024
_KEEPALIVE_SECONDS: Final = 180
#: Connections accepted in one turn of the loop.
_ACCEPTS_MAX: Final = 16
#: While all that may arrive at once does; a handshake takes a millisecond.
_FULL_PAUSE_SECONDS: Final = 0.02
#: A connection whose handshake takes longer gives way to others, when there are too many.
_PATIENCE_SECONDS: Final = 1.0
#: After the system refused a connection for want of descriptors or memory.
_ACCEPT_PAUSE_SECONDS: Final = 1.0
_SHUTDOWN_SECONDS: Final = 5.0
#: Between two looks at when the certificate ends.
_WATCH_SECONDS: Final = 12 * 3600.0
#: A peer that spoke plain HTTP gets so long to read its answer, and so much of what it sends is thrown away.
_PLAIN_SECONDS_MAX: Final = 1.0
_PLAIN_BYTES_MAX: Final = 64 * 1024

_TLS_HANDSHAKE: Final = 0x16
#: What a method of HTTP begins with.
_METHOD_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_PLAIN_ANSWER: Final = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Listener(Protocol):
    """An address that is listened on."""

    @property
    def port(self) -> int:
        """The port, chosen by the system when it was asked to."""
        ...

    def close(self) -> None:
        """Accept nothing more; connections that stand go on. Idempotent."""
        ...


async def listen(
    loop: asyncio.AbstractEventLoop,
    address: Address,
    protocol_factory: ProtocolFactory,
    tls: TlsFiles | None,
    is_full: Callable[[], bool] | None = None,
) -> Listener:
    """Listen on ``address``.

    Args:
        loop: the running loop.
        address: port 0 takes a free one.
        protocol_factory: gets the connections; aiohttp's ``web.Server`` is one.
        tls: None is plain HTTP.
        is_full: whether a new connection is closed at once.

    Raises:
        OSError: the address cannot be listened on.
        TrustError: the certificates cannot be used.
    """
    contexts = None if tls is None else _follow(loop, tls)
    factory = protocol_factory if is_full is None else _Doorkeeper(protocol_factory, is_full)
    sockets = await _bind(loop, address)
    if contexts is None:
        servers = [await loop.create_server(factory, sock=sock, backlog=_BACKLOG) for sock in sockets]
        return _PlainListener(sockets[0].getsockname()[1], servers)
    assert tls is not None
    return _TlsListener(loop, sockets, factory, contexts, tls.cert)


def _follow(loop: asyncio.AbstractEventLoop, tls: TlsFiles) -> ContextSource:
    return ContextSource(
        tls,
        listening_context,
        loop.time,
        renewed=lambda: log.info("certificates.renewed", cert=str(tls.cert)),
        complain=lambda reason: log.error("certificates.unusable", reason=reason, consequence="the old ones stay"),
    )


async def _bind(loop: asyncio.AbstractEventLoop, address: Address) -> list[socket.socket]:
    """Sockets that listen on every address of the host, all on one port; accepted ones inherit their options."""
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((place[0], port, *place[2:]))
            sock.listen(_BACKLOG)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class _Doorkeeper:
    """Turns connections away while there are too many."""

    def __init__(self, factory: ProtocolFactory, is_full: Callable[[], bool]) -> None:
        self._factory = factory
        self._is_full = is_full

    def __call__(self) -> asyncio.BaseProtocol:
        return _TurnedAway() if self._is_full() else self._factory()


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _PlainListener:
    """See ``Listener``."""

    def __init__(self, port: int, servers: list[asyncio.Server]) -> None:
        self.port = port
        self._servers = servers

    def close(self) -> None:
        """See ``Listener``."""
        for server in self._servers:
            server.close()


@dataclass(slots=True)
class _Arrival:
    """A connection that was accepted and is not the server's yet."""

    connection: socket.socket
    remote: str
    #: The loop's time when it was accepted.
    since: float
    #: Whether a transport has it, which closes it.
    is_handed_over: bool = False


class _TlsListener:
    """See ``Listener``; the module tells the rules."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        factory: ProtocolFactory,
        contexts: ContextSource,
        cert: Path,
    ) -> None:
        self.port = sockets[0].getsockname()[1]
        self._loop = loop
        self._sockets = sockets
        self._factory = factory
        self._contexts = contexts
        #: Connections that are not the server's yet, oldest first.
        self._arriving: dict[asyncio.Task[None], _Arrival] = {}
        self._turn = asyncio.Lock()
        self._complaints = Complaints(loop.time)
        self._closed = False
        self._cert = cert
        self._watch_end()
        self._accept_everywhere()

    def close(self) -> None:
        """See ``Listener``; whoever has not finished its handshake is cut off."""
        if self._closed:
            return
        self._closed = True
        self._watching.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for task in self._arriving:
            task.cancel()

    def _watch_end(self) -> None:
        """Say, now and twice a day, that the certificate ends soon."""
        if reason := tell_end(self._cert, dt.datetime.now(dt.UTC)):
            log.warning("certificate.ends", reason=reason)
        self._watching = self._loop.call_later(_WATCH_SECONDS, self._watch_end)

    def _accept_everywhere(self) -> None:
        if not self._closed:
            for sock in self._sockets:
                self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_MAX):
            if self._is_crowded and self._loop.time() - self._oldest.since < _PATIENCE_SECONDS:
                self._pause(_FULL_PAUSE_SECONDS)
                return
            try:
                connection, peer = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory; the backlog holds what waits, and the loop must not spin on it.
                log.warning("accept.failed", error=str(error), again_seconds=_ACCEPT_PAUSE_SECONDS)
                self._pause(_ACCEPT_PAUSE_SECONDS)
                return
            connection.setblocking(False)
            if self._is_crowded:
                self._let_go_of_oldest()
            arrival = _Arrival(connection, peer[0], self._loop.time())
            task = self._loop.create_task(self._admit(arrival))
            self._arriving[task] = arrival
            task.add_done_callback(partial(self._arrived, arrival))

    def _pause(self, seconds: float) -> None:
        """Accept nothing for a while."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        self._loop.call_later(seconds, self._accept_everywhere)

    @property
    def _is_crowded(self) -> bool:
        return len(self._arriving) >= limits.HANDSHAKES_MAX

    @property
    def _oldest(self) -> _Arrival:
        return next(iter(self._arriving.values()))

    def _let_go_of_oldest(self) -> None:
        task = next(iter(self._arriving))
        del self._arriving[task]
        task.cancel()

    def _arrived(self, arrival: _Arrival, task: asyncio.Task[None]) -> None:
        # Here and not in the task: one that is cancelled before its first step never runs.
        if not arrival.is_handed_over:
            arrival.connection.close()
        self._arriving.pop(task, None)
        if not task.cancelled():
            task.result()  # raises its defect, for the loop's handler

    async def _admit(self, arrival: _Arrival) -> None:
        """Look at what the peer speaks; TLS goes on to the server, the rest ends here."""
        try:
            async with asyncio.timeout(limits.HANDSHAKE_SECONDS_MAX):
                first = await self._peek(arrival.connection)
                if first == _TLS_HANDSHAKE:
                    await self._shake_hands(arrival)
                elif first in _METHOD_LETTERS:
                    await self._answer_plainly(arrival.connection)
        except TimeoutError:
            pass  # a peer that says nothing, or never to the end, is nobody's loss
        except OSError as error:  # ssl.SSLError among them
            self._complaints.add(explain(error), arrival.remote)

    async def _peek(self, connection: socket.socket) -> int | None:
        """The first byte, left where it is; None when the peer has gone."""
        while True:
            try:
                first = connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                await self._readable(connection)
            else:
                return first[0] if first else None

    async def _readable(self, connection: socket.socket) -> None:
        readable = self._loop.create_future()
        self._loop.add_reader(connection, _wake, readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(connection)

    async def _shake_hands(self, arrival: _Arrival) -> None:
        """Give the connection to the server, with TLS in between."""
        await self._turn.acquire()
        self._loop.call_soon(self._turn.release)
        own_connection(arrival.connection)
        context = self._contexts.get()
        arrival.is_handed_over = True
        await self._loop.connect_accepted_socket(
            self._factory,
            arrival.connection,
            ssl=context,
            ssl_handshake_timeout=limits.HANDSHAKE_SECONDS_MAX,
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
        )

    async def _answer_plainly(self, connection: socket.socket) -> None:
        """The reference's own words, and an orderly end: what is closed with unread data in it takes them along."""
        connection.send(_PLAIN_ANSWER)
        connection.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PLAIN_SECONDS_MAX):
                left = _PLAIN_BYTES_MAX
                while left > 0 and (data := await self._loop.sock_recv(connection, left)):
                    left -= len(data)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
