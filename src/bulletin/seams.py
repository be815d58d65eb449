"""Where the world comes in: Protocols for clock and ids, and their production versions.

Everything that needs the time or chance is handed one of these, so that a test can hand it its own.
"""

from __future__ import annotations

import time
import uuid
from typing import Protocol

__all__ = ["Clock", "Ids", "RandomIds", "SystemClock"]


class Clock(Protocol):
    """Tells the time."""

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch; for what is stored and shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; for waits and ages."""
        ...


class Ids(Protocol):
    """Makes names nobody has used."""

    def new(self) -> str:
        """A fresh identifier, safe in a path, a URL and a task guid."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """See ``Clock``."""
        return time.time_ns()

    def monotonic(self) -> float:
        """See ``Clock``."""
        return time.monotonic()


class RandomIds:
    """Random UUIDs."""

    def new(self) -> str:
        """See ``Ids``."""
        return str(uuid.uuid4())
