"""Names to addresses for callbacks, so that a name server that keeps silent delays nobody but who asked for its names.

The system's resolver blocks, so each lookup runs in a thread of its own: those of the event loop are few, and a few
silent name servers would hold all of them. One lookup of a name serves all who want it, and its answer those who come
in the next seconds. A thread that hangs ends with the process; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import OrderedDict
from typing import Final

from bulletin.core import limits

__all__ = ["Resolver"]

_KEPT_SECONDS: Final = 10.0
_NAMES_KEPT_MAX: Final = 1024


class Resolver:
    """Looks names up. For one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        #: Name to addresses and until when they are believed; the oldest first.
        self._known: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()
        self._lookups: dict[str, asyncio.Future[tuple[str, ...]]] = {}

    async def lookup(self, name: str) -> tuple[str, ...]:
        """The addresses of ``name`` (or of an address, which is its own), in the order to try them; never empty.

        Cancelling it leaves the lookup under way for others.

        Raises:
            OSError: the name has none, or too many other names are being looked up.
        """
        addresses = (name,) if _is_address(name) else self._recall(name)
        if addresses is not None:
            return addresses
        lookup = self._lookups.get(name)
        if lookup is None:
            if len(self._lookups) >= limits.CALLBACK_LOOKUPS_MAX:
                raise OSError("too many names are being looked up")
            lookup = self._lookups[name] = self._loop.create_future()
            threading.Thread(target=self._look, args=(name,), name="lookup", daemon=True).start()
        return await asyncio.shield(lookup)

    def _recall(self, name: str) -> tuple[str, ...] | None:
        known = self._known.get(name)
        if known is None or known[0] < self._loop.time():
            return None
        return known[1]

    def _look(self, name: str) -> None:
        """In a thread."""
        answer: tuple[str, ...] | OSError
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
            answer = tuple(dict.fromkeys(str(each[4][0]) for each in found))[: limits.CALLBACK_ADDRESSES_MAX]
        except (OSError, UnicodeError) as error:
            answer = error if isinstance(error, OSError) else OSError("not a name")
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever wanted to know
            self._loop.call_soon_threadsafe(self._tell, name, answer)

    def _tell(self, name: str, answer: tuple[str, ...] | OSError) -> None:
        lookup = self._lookups.pop(name)
        if isinstance(answer, OSError):
            lookup.set_exception(answer)
            lookup.exception()  # whoever asked may have gone
            return
        lookup.set_result(answer)
        self._known.pop(name, None)
        self._known[name] = (self._loop.time() + _KEPT_SECONDS, answer)
        if len(self._known) > _NAMES_KEPT_MAX:
            self._known.popitem(last=False)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
