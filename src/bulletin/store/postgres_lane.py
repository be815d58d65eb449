"""A connection to PostgreSQL that is dialled when it is needed and dropped when a call on it does not end well.

Every wait is bounded, on both sides: a call that takes too long is given up here, and the server gives up its own part
of it a little sooner. What became of a call that was given up is not known, and it may even come to be done later;
``Lane.dialled`` tells a store that the connection is another one by now, so that it can make sure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from bulletin.store.api import StoreError

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

__all__ = ["CALL_SECONDS", "CONNECT_SECONDS", "Lane", "Target"]

#: Dialling, with names, TLS, authentication.
CONNECT_SECONDS: Final = 5.0
#: One call, waiting for the lane and for locks in the database included. A board whose store is slower than this has
#: lost its lease anyway.
CALL_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0
#: What the server gets of a call's time, so that its own error comes in time to be read.
_SERVER_SHARE: Final = 0.8

#: Of every connection. Each statement reads by a key or in the order of one, so anything else the planner may think of
#: is a mistake it makes about a table that has just been made or has just grown; a plan is made once and kept.
_SETTINGS: Final = {
    "application_name": "bulletin board",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    # A board that vanished without a word: its transaction and its locks are gone after this, and its backend too.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
#: The promise of a commit is that it survives power loss; whoever asks for more than that (a replica) keeps it.
_INSIST_ON_DURABILITY: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)

#: What may become of a call: the server says no, the driver does, the network does, or it takes too long.
_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)

T = TypeVar("T")


class Target:
    """Where a database is, and how to speak of it without giving its password away.

    Args:
        url: ``postgresql://user:password@host:port/database?...``; several hosts with commas, of which the one that
            takes writes is used. What it leaves out comes from the environment (``PGPASSWORD``, ``~/.pgpass``, ...).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        scheme, _, rest = url.partition("://")
        authority = rest.partition("?")[0]
        user, at, place = authority.rpartition("@")
        #: For people and logs.
        self.shown = f"{scheme}://{user.partition(':')[0]}{at}{place}"
        try:
            parts = urlsplit(url)
        except ValueError:
            self._secrets = {url}
            return
        found = {parts.netloc.rpartition("@")[0].partition(":")[2]}
        found |= {value for key, value in parse_qsl(parts.query) if "password" in key}
        self._secrets = {form for secret in found if secret for form in (secret, unquote(secret))}

    def failure(self, error: Exception) -> StoreError:
        """``error`` as the store tells it; to be raised ``from`` its ``__cause__``, which holds no secret either."""
        if isinstance(error, TimeoutError):
            text = "no answer in time"
        elif isinstance(error, asyncpg.PostgresError) and error.severity is None:
            # The driver's own refusal of a value repeats the value, which may be a whole definition.
            return StoreError(f"{self.shown}: a value cannot be stored ({type(error).__name__})")
        else:
            # Not the detail: that may hold values too.
            text = getattr(error, "message", None) or str(error) or type(error).__name__
        code = getattr(error, "sqlstate", None) or type(error).__name__
        told = StoreError(f"{self.shown}: {self._without_secrets(text)} ({code})")
        if self._without_secrets(str(error)) == str(error):
            told.__cause__ = error
        return told

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class Lane:
    """One connection for one call at a time; the others wait, no longer than a call may take.

    Args:
        target: where to.
        connect_seconds: for dialling.
        call_seconds: for one call.
    """

    def __init__(self, target: Target, *, connect_seconds: float, call_seconds: float) -> None:
        self._target = target
        self._connect_seconds = connect_seconds
        self._call_seconds = call_seconds
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._is_open = False
        #: How many connections there have been.
        self.dialled = 0

    def open(self) -> None:
        """Let calls through; the first one dials."""
        self._is_open = True

    async def close(self) -> None:
        """Let no call through, and hang up. Idempotent. A call under way fails."""
        self._is_open = False
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._lock.locked():
            connection.terminate()
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await connection.close()
        except _ERRORS:
            connection.terminate()

    async def call(self, work: Callable[[Connection], Awaitable[T]], *, seconds: float | None = None) -> T:
        """Do ``work`` with the connection.

        Args:
            work: leaves no transaction open.
            seconds: how long it may take, if not as long as any call.

        Raises:
            StoreError: it took too long, or the connection or the server failed; or ``work`` raised it.
        """
        try:
            async with asyncio.timeout(self._call_seconds if seconds is None else seconds), self._lock:
                connection = self._connection
                if connection is None or connection.is_closed():
                    connection = await self._dial()
                try:
                    return await work(connection)
                except BaseException as error:
                    if not _is_intact(connection, error):
                        self._connection = None
                        connection.terminate()
                    raise
        except _ERRORS as error:
            told = self._target.failure(error)
            raise told from told.__cause__

    async def _dial(self) -> Connection:
        self._insist_on_open()
        patience = str(round(self._call_seconds * _SERVER_SHARE * 1000))
        limits = dict.fromkeys(("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), patience)
        try:
            connection: Connection = await asyncpg.connect(
                self._target.url,
                timeout=self._connect_seconds,
                server_settings=_SETTINGS | limits,
                target_session_attrs=SessionAttribute.read_write,
            )
        except ValueError as error:
            # A URL the driver cannot read.
            told = self._target.failure(error)
            raise told from told.__cause__
        try:
            await connection.execute(_INSIST_ON_DURABILITY)
            self._insist_on_open()
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        self.dialled += 1
        return connection

    def _insist_on_open(self) -> None:
        if not self._is_open:
            raise StoreError("the store is not open")


def _is_intact(connection: Connection, error: BaseException) -> bool:
    """Whether the next call can use the connection: the server has answered this one, and nothing is left of it."""
    answered = isinstance(error, (asyncpg.PostgresError, StoreError))
    return answered and not connection.is_closed() and not connection.is_in_transaction()
