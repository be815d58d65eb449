"""The API's door: open while this board may serve, closed with all its connections while another one does.

A closed port is what sends clients and cells to another board at once; it is what the reference's passive node shows
(board-api.md 1.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from bulletin.board.http import make_request
from bulletin.board.listening import Listener, listen
from bulletin.board.settings import Address, BoardSettings
from bulletin.core import limits

__all__ = ["Door"]

_LINGERING_SECONDS: Final = 1.0
#: To aiohttp a grace of nothing is one without an end.
_GRACE_SECONDS_MIN: Final = 0.01


class Door:
    """Listens on the API's address. Opened, shut and cleared in this order, any number of times."""

    def __init__(
        self, settings: BoardSettings, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> None:
        self._tls = settings.tls
        self._handle = handle
        #: Port 0 is the system's choice the first time, and that port from then on: it was told to people.
        self._address = settings.listen
        self._listener: Listener | None = None
        self._server: web.Server | None = None

    async def open(self) -> str:
        """Listen, unless it does; returns the URL.

        Raises:
            OSError: the address cannot be listened on, or the certificates cannot be used.
        """
        if self._listener is None:
            await self._listen()
        return f"{'http' if self._tls is None else 'https'}://{self._address}"

    async def _listen(self) -> None:
        server = web.Server(
            self._handle,
            request_factory=make_request,
            access_log=None,
            keepalive_timeout=limits.KEEPALIVE_SECONDS,
            max_line_size=limits.HEADER_BYTES_MAX,
            max_field_size=limits.HEADER_BYTES_MAX,
            lingering_time=_LINGERING_SECONDS,
            auto_decompress=False,
        )
        self._listener = await listen(
            asyncio.get_running_loop(),
            self._address,
            server,
            self._tls,
            is_full=lambda: len(server.connections) >= limits.CONNECTIONS_MAX,
        )
        self._server = server
        self._address = Address(self._address.host, self._listener.port)

    def shut(self) -> None:
        """Let nobody in any more. Harmless when it is shut."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def clear(self, grace_seconds: float) -> None:
        """Close the connections; requests under way get ``grace_seconds`` to finish."""
        self.shut()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(max(grace_seconds, _GRACE_SECONDS_MIN))
            self._server = None
