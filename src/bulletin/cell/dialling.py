"""Dialling boards: which one, with which certificate, and what a failure means to the cell's operator."""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Sequence
from typing import Final

import structlog
from aiohttp import ClientConnectorCertificateError, ClientConnectorError, WSServerHandshakeError

from bulletin.core import limits
from bulletin.seams import Clock
from bulletin.trust.contexts import ContextSource, client_context
from bulletin.trust.expiry import tell_end
from bulletin.trust.files import TlsFiles

__all__ = ["Boards", "explain", "follow"]

log = structlog.get_logger("bulletin.cell.agent")

#: A board on a good network answers within this, however many others there are to ask.
_OPEN_SECONDS_MIN: Final = 2.0


class Boards:
    """The boards to dial, in turn: one is kept until it fails."""

    def __init__(self, urls: Sequence[str]) -> None:
        assert urls
        self._urls = tuple(urls)
        self._index = 0

    @property
    def present(self) -> str:
        """The one to dial, without a slash at its end."""
        return self._urls[self._index]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._urls)

    @property
    def open_seconds(self) -> float:
        """How long to wait for one: a round over several takes as long as a single board may."""
        return max(_OPEN_SECONDS_MIN, limits.LINK_OPEN_SECONDS_MAX / self.count)

    def go_on(self) -> None:
        """The present one has failed: the next one's turn."""
        self._index = (self._index + 1) % self.count


def follow(files: TlsFiles, clock: Clock) -> ContextSource:
    """The cell's certificate, renewed with its files.

    Raises:
        TrustError: they cannot be used.
    """
    if reason := tell_end(files.cert, dt.datetime.fromtimestamp(clock.now_ns() / 1e9, dt.UTC)):
        log.warning("certificate.ends", reason=reason)
    return ContextSource(
        files,
        client_context,
        clock.monotonic,
        renewed=lambda: log.info("certificates.renewed", cert=str(files.cert)),
        complain=lambda reason: log.error("certificates.unusable", reason=reason, consequence="the old ones stay"),
    )


#: What a board says by closing a TLS connection, as far as the cell's operator can do something about it.
_ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "the board does not know the authority of this cell's certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the board refuses this cell's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "this cell's certificate has expired; renew it with `bulletin certs renew`",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the board wants a certificate; pass --cert and --key",
    "WRONG_VERSION_NUMBER": "the board does not speak TLS there; is it an http board?",
}


def explain(error: BaseException) -> str:
    """Why a board could not be dialled, for its log line."""
    if isinstance(error, WSServerHandshakeError):
        if error.status == 403:
            return (
                "the board refuses this certificate: it has not the role cell; make one with "
                "`bulletin certs issue DIRECTORY --role cell --name ID`"
            )
        if error.status == 503:
            return "the board does not serve yet"
        return f"the board answers with HTTP status {error.status}"
    if isinstance(error, ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
        return f"the board's certificate is refused: {reason}; check --ca, and the names in the board's certificate"
    cause = error.os_error if isinstance(error, ClientConnectorError) else error
    if isinstance(cause, ssl.SSLError) and cause.reason is not None:
        return _ALERTS.get(cause.reason, cause.reason.lower().replace("_", " "))
    if isinstance(error, TimeoutError):
        return "the board does not answer"
    return str(error) or type(error).__name__
