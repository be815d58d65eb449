"""How definitions are sealed at rest (board-api.md section 13); nothing else of a task is.

A definition carries the secrets a client trusted us with (``image_password``, environment values), so it passes
through a ``Sealer`` on its way into a store and out of it. ``PlainSealer`` only marks the bytes as plain; an
encrypting sealer tells sealed rows from plain ones by their first two bytes.
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["PlainSealer", "Sealer", "Unsealable"]

#: What plaintext begins with (board-api.md section 13); ciphertext begins with the two characters ``02``.
_PLAIN: Final = b"\x02\x00"


class Unsealable(Exception):
    """The bytes cannot be opened: no key for them, or they were changed. The text holds none of them."""


class Sealer(Protocol):
    """Seals what goes to disk and opens what comes back. Pure: no I/O, usable from any thread."""

    def seal(self, content: bytes) -> bytes:
        """The form to store."""
        ...

    def open(self, sealed: bytes) -> bytes:
        """What was sealed.

        Raises:
            Unsealable: it was not sealed by this sealer, or was changed since.
        """
        ...


class PlainSealer:
    """Adds the header of plaintext, and insists on it when reading."""

    def seal(self, content: bytes) -> bytes:
        """See ``Sealer``."""
        return _PLAIN + content

    def open(self, sealed: bytes) -> bytes:
        """See ``Sealer``."""
        if not sealed.startswith(_PLAIN):
            raise Unsealable("the definition does not begin with the plaintext header 02 00")
        return sealed[2:]
