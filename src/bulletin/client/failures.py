"""Why an attempt to reach a board failed, in words that say what to do: what sockets, TLS and HTTP raise, read once."""

from __future__ import annotations

import ssl as tls
from dataclasses import dataclass
from typing import Final

import aiohttp

__all__ = ["AttemptFailed", "Problem", "StreamCut", "StreamGarbled", "StreamRefused", "explain"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong in one attempt.

    Attributes:
        cause: a clause, without the board's address.
        hint: what to do about it; empty when the usual advice will do.
        delivered: whether the board may have received the request.
        timed_out: the board took the request and kept silent.
        lasting: the next attempt will fail in the same way.
    """

    cause: str
    hint: str = ""
    delivered: bool = True
    timed_out: bool = False
    lasting: bool = False


class AttemptFailed(Exception):
    """No usable answer from one attempt."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.cause)
        self.problem = problem


class StreamCut(Exception):
    """An event stream broke off, as opposed to an orderly end."""


class StreamGarbled(StreamCut):
    """What came is no stream of events, or has one that is too long: coming again to the same place is of no use."""


class StreamRefused(Exception):
    """The board answered a request for a stream with something else.

    Attributes:
        status: of HTTP. 500, 502, 503 and 504 mean "later" (board-api.md 11.4).
        reason: the text of the answer, if it has one.
    """

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(f"it answered {status} to a request for events")
        self.status = status
        self.reason = reason
        self.is_temporary = status in {500, 502, 503, 504}


def explain(error: BaseException, head_seconds: float) -> Problem:
    """What an error of the HTTP library, of TLS or of a socket means.

    Args:
        error: a ``TimeoutError``, ``aiohttp.ClientError`` or ``OSError``.
        head_seconds: how long an answer was waited for.
    """
    if isinstance(error, TimeoutError):
        # aiohttp's connect timeout is both; nothing was sent then.
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return Problem("no connection in time", delivered=False)
        return Problem(f"no answer within {head_seconds:g} s", timed_out=True)
    about_tls = _explain_tls(error)
    if about_tls is not None:
        return about_tls
    if isinstance(error, aiohttp.ClientConnectorError):
        return Problem(_connect_cause(error), delivered=False)
    return Problem(str(error) or type(error).__name__)


def _connect_cause(error: aiohttp.ClientConnectorError) -> str:
    cause = error.os_error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    # aiohttp puts address and TLS context before the reason; the address stands in our text already.
    return cause.strerror or str(cause) or type(cause).__name__


# -- TLS ---------------------------------------------------------------------------------------------------------

_CA_HINT: Final = "pass the authority that signed the board's certificate (--ca, BULLETIN_CA)"
_NAME_HINT: Final = "use a name or an address that stands in the board's certificate, or have it made for this one"
_OWN_HINT: Final = "pass a certificate and its key (--cert, --key) that the board's own authority has signed"
_RENEW_HINT: Final = "renew the board's certificate, or set the clock of this machine"

#: OpenSSL's reasons for which a chain is refused (X509_V_ERR_*), here on the client's side.
_CHAIN_PROBLEMS: Final[dict[int, tuple[str, str]]] = {
    9: ("the board's certificate is not valid yet", _RENEW_HINT),
    10: ("the board's certificate has expired", _RENEW_HINT),
    18: ("nobody we trust vouches for the board's certificate", _CA_HINT),
    19: ("nobody we trust vouches for the board's certificate", _CA_HINT),
    20: ("nobody we trust vouches for the board's certificate", _CA_HINT),
    21: ("nobody we trust vouches for the board's certificate", _CA_HINT),
    62: ("the board's certificate is for another host name", _NAME_HINT),
    64: ("the board's certificate is for another address", _NAME_HINT),
}

#: Alerts, by what OpenSSL's name for them ends with: what the board thinks of our certificate.
_ALERT_PROBLEMS: Final[dict[str, tuple[str, str]]] = {
    "ALERT_CERTIFICATE_REQUIRED": ("it wants a certificate of us", _OWN_HINT),
    "ALERT_UNKNOWN_CA": ("it does not trust the authority of our certificate", _OWN_HINT),
    "ALERT_CERTIFICATE_EXPIRED": ("our certificate has expired", "renew it (--cert, --key)"),
    "ALERT_CERTIFICATE_REVOKED": ("our certificate was revoked", _OWN_HINT),
    "ALERT_BAD_CERTIFICATE": ("it refuses our certificate", _OWN_HINT),
    "ALERT_UNSUPPORTED_CERTIFICATE": ("our certificate is not one for clients", _OWN_HINT),
    # TLS 1.2 has no better word for a certificate that did not come.
    "ALERT_HANDSHAKE_FAILURE": ("it refuses the handshake, as one without a certificate", _OWN_HINT),
    "WRONG_VERSION_NUMBER": ("it does not speak TLS", "write http:// instead of https://"),
}


def _explain_tls(error: BaseException) -> Problem | None:
    """The TLS problem behind an error, if it is one; nothing was executed then."""
    cause = _tls_error(error)
    if cause is None:
        return None
    if isinstance(cause, tls.SSLCertVerificationError):
        text, hint = _CHAIN_PROBLEMS.get(cause.verify_code, (f"its certificate is refused: {cause.verify_message}", ""))
        return Problem(text, hint, delivered=False, lasting=True)
    reason = cause.reason or ""
    for ending, (text, hint) in _ALERT_PROBLEMS.items():
        if reason.endswith(ending):
            return Problem(text, hint, delivered=False, lasting=True)
    return None


def _tls_error(error: BaseException) -> tls.SSLError | None:
    """The error of the ssl module that is, or is behind, an error of the HTTP library."""
    seen: BaseException | None = error
    for _depth in range(_CHAIN_DEPTH_MAX):
        # aiohttp's own errors come first: some of them are errors of the ssl module, too, but empty ones.
        if isinstance(seen, aiohttp.ClientConnectorCertificateError):
            seen = seen.certificate_error
        elif isinstance(seen, aiohttp.ClientConnectorError):
            seen = seen.os_error
        elif isinstance(seen, tls.SSLError):
            return seen
        elif seen is not None:
            seen = seen.__cause__
    return None


#: aiohttp wraps once or twice.
_CHAIN_DEPTH_MAX: Final = 4
