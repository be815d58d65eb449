"""Connections for callbacks: only to addresses that are allowed, and over TLS only to whom the board trusts.

The rule is about the address a connection really leads to. A name is looked up once, each of its addresses is judged,
and what is dialled is the address: no second lookup can give another one. As every connection, the first as those of
redirects, is made here, none goes around it.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from bulletin.board.resolving import Resolver
from bulletin.board.settings import BoardSettings
from bulletin.core.callbacks import Failure
from bulletin.core.destinations import Destinations
from bulletin.seams import Clock
from bulletin.trust.contexts import ContextSource, TrustError, client_context
from bulletin.trust.files import TlsFiles
from bulletin.wire.http1 import Origin

__all__ = ["Dialler", "callback_context"]

log = structlog.get_logger("bulletin.board.callbacks")

#: Receivers outside of the cluster have certificates of all kinds, so there are more ciphers than between its parts.
_CIPHERS_TLS12: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: An address that does not answer leaves the next ones their part of the time, but is given this much.
_ADDRESS_SECONDS_MIN: Final = 1.0
_FAILURES: Final = {errno.ECONNREFUSED: Failure.REFUSED, errno.ECONNRESET: Failure.RESET}
#: For the farewell of a TLS connection; the peer need not say it.
_FAREWELL_SECONDS: Final = 2.0

Protocol = TypeVar("Protocol", bound=asyncio.Protocol)


def callback_context(files: TlsFiles | None, *, system_roots: bool) -> ssl.SSLContext:
    """Whom callbacks trust: the authorities in ``files`` alone, or those of the machine too.

    A board without TLS has no authority of its own, so it trusts the machine's.

    Raises:
        TrustError: a file cannot be used.
    """
    context = client_context(files)
    context.set_ciphers(_CIPHERS_TLS12)
    if files is not None and system_roots:
        context.load_default_certs()
    return context


class Dialler:
    """Makes connections. For one event loop."""

    def __init__(self, settings: BoardSettings, clock: Clock) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._clock = clock
        self._destinations = Destinations.parse(settings.callback_allow, settings.callback_deny)
        self._resolver = Resolver()
        self._contexts: Callable[[], ssl.SSLContext] | None = None

    async def dial(self, origin: Origin, protocol: Callable[[], Protocol]) -> Protocol | Failure:
        """A connection to ``origin``, its TLS handshake included, or why there is none; logs what is not allowed."""
        try:
            async with asyncio.timeout(self._settings.callback_connect_seconds):
                addresses = await self._addresses(origin)
                if isinstance(addresses, Failure):
                    return addresses
                context = self._context() if origin.tls else None
                return await self._connect(origin, addresses, context, protocol)
        except TimeoutError:
            return Failure.DIAL_TIMEOUT
        except TrustError as error:
            _complain(str(error))
            return Failure.TLS

    async def _addresses(self, origin: Origin) -> list[str] | Failure:
        """Those of the origin that may be dialled."""
        try:
            found = await self._resolver.lookup(origin.host)
        except TimeoutError:
            raise
        except OSError:
            return Failure.DNS
        allowed = [address for address in found if self._destinations.permits(address)]
        if not allowed:
            log.warning("callback.destination.denied", origin=str(origin), addresses=list(found))
            return Failure.NOT_ALLOWED
        return allowed

    async def _connect(
        self, origin: Origin, addresses: list[str], context: ssl.SSLContext | None, protocol: Callable[[], Protocol]
    ) -> Protocol | Failure:
        """Try one address after the other; the failure is the last one's."""
        until = self._loop.time() + self._settings.callback_connect_seconds
        failure = Failure.DNS
        for index, address in enumerate(addresses):
            share = (until - self._loop.time()) / (len(addresses) - index)
            try:
                async with asyncio.timeout(max(share, _ADDRESS_SECONDS_MIN)):
                    _, made = await self._loop.create_connection(
                        protocol,
                        address,
                        origin.port,
                        ssl=context,
                        server_hostname=origin.host if context is not None else None,
                        ssl_shutdown_timeout=_FAREWELL_SECONDS if context is not None else None,
                    )
            except TimeoutError:
                failure = Failure.DIAL_TIMEOUT
            except OSError as error:
                failure = _failure(error)
            else:
                return made
        return failure

    def _context(self) -> ssl.SSLContext:
        if self._contexts is None:
            files, system_roots = self._settings.tls, self._settings.callback_system_roots
            if files is None:
                context = callback_context(None, system_roots=True)
                self._contexts = lambda: context
            else:
                self._contexts = ContextSource(
                    files,
                    lambda files: callback_context(files, system_roots=system_roots),
                    self._clock.monotonic,
                    renewed=lambda: log.info("callback.trust.renewed"),
                    complain=_complain,
                ).get
        return self._contexts()


def _complain(reason: str) -> None:
    log.error("callback.trust.unusable", error=reason)


def _failure(error: OSError) -> Failure:
    if isinstance(error, ssl.SSLError):
        return Failure.TLS
    return _FAILURES.get(error.errno or 0, Failure.NO_CONNECTION)
