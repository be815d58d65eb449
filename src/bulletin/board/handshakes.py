"""Handshakes of TLS on the board's side: what a peer is told when one fails, and what the log is.

Neither asyncio nor uvloop sends the alert that OpenSSL writes for a handshake that failed: the peer would see a cut
connection and never learn that, for example, its certificate has expired. ``_Handshake`` sends it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Final

import structlog

from bulletin.trust.contexts import server_context
from bulletin.trust.files import TlsFiles

__all__ = ["Complaints", "explain", "listening_context", "own_connection"]

log = structlog.get_logger("bulletin.board.listening")

#: Log lines about failed handshakes; anybody can cause them.
_LINES_PER_SECOND: Final = 5

#: The socket of the connection that the running task admits; its ``_Handshake`` finds it here.
_connection: ContextVar[socket.socket] = ContextVar("connection")


def own_connection(connection: socket.socket) -> None:
    """Say which connection a handshake that the running task begins is of."""
    _connection.set(connection)


class _Handshake(ssl.SSLObject):
    """TLS of one connection that tells the peer why its handshake failed."""

    outgoing: ssl.MemoryBIO
    connection: socket.socket

    def do_handshake(self) -> None:
        """Go on with the handshake; on a failure, send the alert that OpenSSL has written."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            alert = self.outgoing.read()
            if alert:
                with suppress(OSError):
                    self.connection.send(alert)
            raise


class _ListeningContext(ssl.SSLContext):
    """A context whose connections are ``_Handshake``."""

    sslobject_class = _Handshake

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As in ``ssl``; the new connection learns where its alert goes."""
        wrapped = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(wrapped, _Handshake)
        wrapped.outgoing = outgoing
        wrapped.connection = _connection.get()
        return wrapped


def listening_context(files: TlsFiles) -> ssl.SSLContext:
    """The context of the API's port; every handshake in it begins after ``own_connection``.

    Raises:
        TrustError: the files cannot be used.
    """
    return server_context(files, _ListeningContext)


#: OpenSSL's reason for the failure of a handshake, as far as the board's operator can do something about it.
_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate; give it one of the board's authority",
    "UNSUPPORTED_PROTOCOL": "the peer speaks only TLS versions before 1.2",
    "NO_SHARED_CIPHER": (
        "the peer offers no cipher this board has; with TLS 1.2 that takes ECDHE-RSA with AES-GCM and an RSA "
        "certificate of the board"
    ),
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust the authority of the board's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer refuses the board's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the board's certificate has expired, says the peer",
}


def explain(error: OSError) -> str:
    """Why a connection came to nothing, in words for the board's operator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or str(error)
        return _REASONS.get(reason, reason.lower().replace("_", " "))
    return error.strerror or str(error) or type(error).__name__


class Complaints:
    """Log lines about connections that failed, so many a second; the next line counts those left out."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def add(self, reason: str, remote: str) -> None:
        """Log why a connection of ``remote`` came to nothing."""
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > _LINES_PER_SECOND:
            self._left_out += 1
            return
        log.warning("handshake.failed", reason=reason, remote=remote, left_out=self._left_out)
        self._left_out = 0
