"""Telling the outcome: what an attempt at a completion callback leads to (board-api.md section 8, design section 6).

An attempt is one POST with the redirects it is led through. ``first_request`` and ``redirect`` say what to send,
``decide`` what the outcome of the attempt means for the task, ``problem`` what to remember of it. The driver sends,
waits and counts; it is handed the time and the chance it needs for that.

Rules: any answer but 503 and 504 counts as told, whatever it says. 503, 504, a peer that keeps silent and a connection
that was closed under the request are tried again, a few times and with growing pauses. Anything else ends the attempts;
the task stays Resolving, and convergence comes back to it until it expires. Nothing of a URL but its origin may be
shown to anybody but who is called: user, path and query may be secrets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final, TypeAlias
from urllib.parse import urljoin, urlsplit

from bulletin.core.limits import CALLBACK_ATTEMPTS_MAX, CALLBACK_REDIRECTS_MAX

__all__ = [
    "RETRIED_STATUSES",
    "Again",
    "Answered",
    "ConnectionClosed",
    "Decision",
    "Delivered",
    "Failure",
    "Leave",
    "Outcome",
    "Policy",
    "Request",
    "TimedOut",
    "Unreachable",
    "decide",
    "first_request",
    "is_expired",
    "may_start",
    "problem",
    "redirect",
]

#: Answers of a peer, or of a proxy before it, that is not up to it just now.
RETRIED_STATUSES: Final = frozenset({503, 504})
#: To a GET without the body, whatever the method was.
_REDIRECTS_TO_GET: Final = frozenset({301, 302, 303})
#: The same request again.
_REDIRECTS_REPEATING: Final = frozenset({307, 308})
_CONTROL: Final = re.compile("[\\x00-\\x1f\\x7f]")
#: Of a path; Go parses no URL that holds one, and nobody else can tell what it stands for.
_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
#: One origin may have as many deliveries under way as this part of what is left for all others.
_SHARE_OF_FREE: Final = 0.25
#: Pauses grow no further after so many attempts, which keeps the power within a float.
_GROWTHS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set of callbacks.

    Raises:
        ValueError: a value is out of its range.
    """

    #: Attempts in one delivery, at least 1.
    attempts_max: int = CALLBACK_ATTEMPTS_MAX
    #: The pause after the first attempt, before jitter.
    delay_first_seconds: float = 0.5
    #: Each pause is so many times the last one; 1 to 10.
    delay_factor: float = 2.0
    #: No pause is longer.
    delay_max_seconds: float = 5.0
    #: How much of a pause chance may take away, 0 to 1: a peer that comes back is not met by all at once.
    jitter_fraction: float = 0.25
    #: From the first completion of a task until nobody is told any more.
    callback_expiry_seconds: float = 120.0

    def __post_init__(self) -> None:
        fits = (
            self.attempts_max >= 1
            and 0 <= self.delay_first_seconds < inf
            and 1 <= self.delay_factor <= 10
            and 0 <= self.delay_max_seconds < inf
            and 0 <= self.jitter_fraction <= 1
            and 0 <= self.callback_expiry_seconds < inf
        )
        if not fits:
            raise ValueError(f"callback policy out of range: {self}")


# -- outcomes of an attempt ---------------------------------------------------------------------------------------


class Failure(Enum):
    """Why no answer came. The value is for people."""

    REFUSED = "connection refused"
    RESET = "connection reset"
    DNS = "name not resolved"
    NO_CONNECTION = "no connection"
    DIAL_TIMEOUT = "no connection in time"
    TLS = "TLS failed"
    BAD_URL = "unusable URL"
    TOO_MANY_REDIRECTS = "too many redirects"
    MALFORMED_ANSWER = "answer is not HTTP"
    ANSWER_TOO_LARGE = "header of the answer is too large"
    NOT_ALLOWED = "destination not allowed"


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer came: its status, after redirects."""

    status: int


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The connection stood, but no answer came in time."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """Our own side closed the connection under the request ("use of closed network connection")."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nobody there to answer, and trying again at once would not help."""

    kind: Failure


Outcome: TypeAlias = Answered | TimedOut | ConnectionClosed | Unreachable

# -- decisions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outcome counts as told."""


@dataclass(frozen=True, slots=True)
class Again:
    """Make another attempt after a pause."""

    after_seconds: float


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave the task Resolving; convergence comes back to it. ``reason`` is for logs and holds no secret."""

    reason: str


Decision: TypeAlias = Delivered | Again | Leave


def decide(
    attempt: int, outcome: Outcome, policy: Policy, *, now: int, first_completed_at: int, jitter: float = 0.0
) -> Decision:
    """What the ``outcome`` of attempt number ``attempt`` (the first is 1) leads to.

    ``now`` and the task's ``first_completed_at`` (ns) tell whether another attempt would still be in time. ``jitter``
    is chance, from 0 to below 1.
    """
    assert attempt >= 1, "attempts count from 1"
    assert 0 <= jitter < 1, "jitter is a fraction"
    wrong = problem(outcome)
    if not wrong:
        return Delivered()
    if isinstance(outcome, Unreachable):
        return Leave(wrong)
    if attempt >= policy.attempts_max:
        return Leave(f"{wrong} at attempt {attempt}, the last")
    pause_seconds = _pause_seconds(attempt, policy, jitter)
    if is_expired(first_completed_at, now + round(pause_seconds * 1e9), policy):
        return Leave(f"{wrong} at attempt {attempt}, expired before another")
    return Again(pause_seconds)


def problem(outcome: Outcome) -> str:
    """Why ``outcome`` does not count as told, for people and without any secret; empty when it does."""
    match outcome:
        case Answered(status):
            return f"status {status}" if status in RETRIED_STATUSES else ""
        case Unreachable(kind):
            return kind.value
        case TimedOut():
            return "no answer in time"
        case ConnectionClosed():
            return "connection closed"


def is_expired(first_completed_at: int, now: int, policy: Policy) -> bool:
    """Whether it is too late to tell anybody of a task that first completed at that time (both ns)."""
    return first_completed_at + round(policy.callback_expiry_seconds * 1e9) < now


def may_start(under_way: int, free: int) -> bool:
    """Whether an origin with so many deliveries ``under_way`` may begin another while so many workers are ``free``.

    An origin that never answers comes to hold a fifth of all workers and no more; n of them leave 4 of n + 4 to the
    others. So a dead host delays nobody else (design promise S13), and a single good one has room enough.
    """
    return free > 0 and (under_way == 0 or under_way < free * _SHARE_OF_FREE)


def _pause_seconds(attempt: int, policy: Policy, jitter: float) -> float:
    growths = min(attempt - 1, _GROWTHS_MAX)
    grown_seconds = policy.delay_first_seconds * policy.delay_factor**growths
    return min(grown_seconds, policy.delay_max_seconds) * (1 - policy.jitter_fraction * jitter)


# -- requests and redirects ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One request of an attempt."""

    method: str
    url: str
    #: Whether it carries the outcome.
    with_body: bool


def first_request(url: str) -> Request | Unreachable:
    """What an attempt begins with; the board does not check a callback URL when a task is desired."""
    return Request("POST", url, with_body=True) if _is_usable(url) else Unreachable(Failure.BAD_URL)


def redirect(request: Request, status: int, location: str | None, followed: int) -> Request | Unreachable | None:
    """Where the answer to ``request`` leads: to another request, to the end of the attempt, or (None) nowhere.

    ``location`` is the answer's Location header, possibly relative, None or empty when there is none. ``followed`` is
    how many redirects this attempt followed so far. As with Go's client, an attempt makes at most ten requests: the
    tenth redirect in a row ends it. User and password go along to the same host, but never from https to http.
    """
    if status not in _REDIRECTS_TO_GET | _REDIRECTS_REPEATING or not location:
        return None
    if followed + 1 >= CALLBACK_REDIRECTS_MAX:
        return Unreachable(Failure.TOO_MANY_REDIRECTS)
    try:
        # A location with a scheme is whole: urljoin would take "http:x" for a relative one.
        parts = urlsplit(location)
        url = parts.geturl() if parts.scheme else urljoin(request.url, location)
    except ValueError:
        return Unreachable(Failure.BAD_URL)
    # urljoin drops line breaks and tabs without a word, so the header is looked at as it came.
    if _CONTROL.search(location) or not _is_usable(url):
        return Unreachable(Failure.BAD_URL)
    url = _with_credentials(url, request.url)
    if status in _REDIRECTS_TO_GET:
        return Request("GET", url, with_body=False)
    return Request(request.method, url, request.with_body)


def _with_credentials(url: str, before: str) -> str:
    """``url`` with the user and password of ``before``, when they may go there and it has none of its own."""
    parts, old = urlsplit(url), urlsplit(before)
    userinfo, at, _ = old.netloc.rpartition("@")
    is_for_them = parts.hostname == old.hostname and (parts.scheme == old.scheme or parts.scheme == "https")
    if not at or "@" in parts.netloc or not is_for_them:
        return url
    return parts._replace(netloc=f"{userinfo}@{parts.netloc}").geturl()


def _is_usable(url: str) -> bool:
    """Whether it is an http or https URL that names a host; urlsplit overlooks controls and a first space."""
    if _CONTROL.search(url) or url.startswith(" "):
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if _BAD_ESCAPE.search(parts.path):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
