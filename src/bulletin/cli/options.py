"""Options that several commands share, with their environment variables and their words in ``--help``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from cyclopts import Group, Parameter, Token

from bulletin.cli.exits import USAGE, CommandFailed

if TYPE_CHECKING:
    from bulletin.client.aio import AsyncClient

__all__ = [
    "CONNECTION_GROUP",
    "DEFAULT_BOARD",
    "DEFAULT_DATA",
    "Connection",
    "DataDirectory",
    "Json",
    "convert",
    "quiet_logs",
    "run_async",
    "with_client",
]

_T = TypeVar("_T")

DEFAULT_BOARD: Final = "http://127.0.0.1:8889"
DEFAULT_DATA: Final = Path("/var/lib/bulletin")
CONNECTION_GROUP: Final = Group("Board", sort_key=90)

#: One JSON document, or one a line, and nothing else on standard output.
Json = Annotated[bool, Parameter(help="Print JSON, and nothing else, on standard output.")]
DataDirectory = Annotated[
    Path,
    Parameter(
        env_var="BULLETIN_DATA", help="Directory of all files of this machine's board and cell.", show_default=True
    ),
]


def convert(read: Callable[[str], _T]) -> Callable[[object, Sequence[Token]], _T]:
    """A cyclopts converter that reads one value with ``read``, whose ValueError becomes a usage error."""

    def converter(_type: object, tokens: Sequence[Token]) -> _T:
        return read(tokens[0].value)

    return converter


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Connection:
    """Which board, and how to prove to it who we are."""

    board: Annotated[
        str,
        Parameter(
            group=CONNECTION_GROUP,
            env_var="BULLETIN_BOARD",
            help="URL of the board, http or https; with standbys, all of them, separated by commas.",
            show_default=True,
        ),
    ] = DEFAULT_BOARD
    ca: Annotated[
        Path | None,
        Parameter(group=CONNECTION_GROUP, env_var="BULLETIN_CA", help="https: the authorities to trust, PEM."),
    ] = None
    cert: Annotated[
        Path | None,
        Parameter(group=CONNECTION_GROUP, env_var="BULLETIN_CERT", help="https: the client's certificate, PEM."),
    ] = None
    key: Annotated[
        Path | None,
        Parameter(group=CONNECTION_GROUP, env_var="BULLETIN_KEY", help="https: the certificate's key, PEM."),
    ] = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncClient]:
        """A client of the board.

        Raises:
            CommandFailed: the URL or a certificate cannot be used.
        """
        from bulletin.client.aio import AsyncClient
        from bulletin.trust.contexts import TrustError

        # What is set in the environment for a board of https is of no use to one of http, and does no harm.
        files = (self.ca, self.cert, self.key) if "https:" in self.board.lower() else (None, None, None)
        ca, cert, key = files
        if cert is None and key is not None:
            raise CommandFailed("--key needs --cert", "pass the certificate of the key too", USAGE)
        if cert is not None and ca is None:
            raise CommandFailed(
                "--cert needs --ca", "pass the authority that signed the board's certificate too", USAGE
            )
        try:
            client = AsyncClient(self.board, ca=ca, cert=cert, key=key)
        except TrustError as error:
            raise CommandFailed(str(error), "check --ca, --cert and --key", USAGE) from error
        except ValueError as error:
            raise CommandFailed(str(error), "pass --board URL or set BULLETIN_BOARD", USAGE) from error
        async with client:
            yield client


def with_client(connection: Connection | None, work: Callable[[AsyncClient], Coroutine[object, object, _T]]) -> _T:
    """Run ``work`` with a client of the board that was asked for."""

    async def connected() -> _T:
        async with (connection or Connection()).open() as client:
            return await work(client)

    return run_async(connected())


def quiet_logs() -> None:
    """Send what the machine's rooms log to standard error, and only what is worth a warning; for commands of people."""
    from bulletin.telemetry import logging

    logging.configure("warning")


def run_async(work: Coroutine[object, object, _T]) -> _T:
    """Run a command's coroutine; Ctrl-C cancels it and comes out as ``KeyboardInterrupt``."""
    import asyncio

    with asyncio.Runner() as runner:
        return runner.run(work)
