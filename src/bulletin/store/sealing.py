"""How definitions are sealed at rest (board-api.md section 13); nothing else of a task is.

A definition carries the secrets a client trusted us with (``image_password``, environment values), so it passes
through a ``Sealer`` on its way into a store and out of it. What is kept is one of two, told apart by two bytes:

    02 00                 plain: the definition follows
    "02" (two digits)     sealed: standard base64 of label length (1 byte), label, nonce (12 bytes), AES-256-GCM of
                          the plain form with the tag at its end (16 bytes), no additional data

A row's guid is not bound to its definition, for the reference does not bind it either: who may write to the database
can swap the definitions of two rows. Who may only read it learns lengths.
"""

from __future__ import annotations

import hashlib
import os
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["LABEL_BYTES_MAX", "KeySealer", "PlainSealer", "Sealer", "Unsealable"]

#: A label is kept behind its length; the reference reads that as a signed byte.
LABEL_BYTES_MAX: Final = 127

_PLAIN: Final = b"\x02\x00"
_SEALED: Final = b"02"
_NONCE_BYTES: Final = 12


class Unsealable(Exception):
    """The bytes cannot be opened: no key for them, or they were changed. The text holds none of them."""


class Sealer(Protocol):
    """Seals what goes to disk and opens what comes back. No I/O; usable from any thread."""

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
        if sealed.startswith(_SEALED):
            raise Unsealable("the definition is sealed, and no key is given")
        return _open_plain(sealed)


class KeySealer:
    """Seals with the active key; opens what any of the keys sealed, and what was stored before there were keys.

    A nonce is 96 random bits, so a key should be rotated long before it has sealed 2^32 definitions.

    Args:
        keys: label to passphrase; the AES key is the passphrase's SHA-256.
        active_label: the label of the key that seals.
        make_nonce: gives so many random bytes.

    Raises:
        ValueError: there is no key, a label does not have 1 to 127 bytes, a passphrase is empty, or ``active_label``
            is not among the keys. The text holds no passphrase.
    """

    def __init__(
        self, keys: Mapping[str, str], active_label: str, *, make_nonce: Callable[[int], bytes] = os.urandom
    ) -> None:
        # Nobody without keys waits for these.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._invalid_tag = InvalidTag
        self._ciphers: dict[bytes, AESGCM] = {}
        for label, passphrase in keys.items():
            name = label.encode()
            if not 1 <= len(name) <= LABEL_BYTES_MAX:
                raise ValueError(f"key label {label!r} must have 1 to {LABEL_BYTES_MAX} bytes, not {len(name)}")
            if not passphrase:
                raise ValueError(f"key {label!r} has an empty passphrase")
            self._ciphers[name] = AESGCM(hashlib.sha256(passphrase.encode()).digest())
        active = active_label.encode()
        if active not in self._ciphers:
            raise ValueError(
                f"the active key label {active_label!r} is not among the keys: {', '.join(keys) or 'none'}"
            )
        self._make_nonce = make_nonce
        self._encrypt = self._ciphers[active].encrypt
        self._head = bytes([len(active)]) + active

    def seal(self, content: bytes) -> bytes:
        """See ``Sealer``."""
        nonce = self._make_nonce(_NONCE_BYTES)
        sealed = self._head + nonce + self._encrypt(nonce, _PLAIN + content, None)
        return _SEALED + b2a_base64(sealed, newline=False)

    def open(self, sealed: bytes) -> bytes:
        """See ``Sealer``."""
        if not sealed.startswith(_SEALED):
            return _open_plain(sealed)
        try:
            content = a2b_base64(sealed[len(_SEALED) :], strict_mode=True)
        except ValueError as error:
            raise Unsealable("the sealed definition is no base64") from error
        # Also where there are fewer bytes than lengths promise: what is cut off then fails to open.
        label_end = 1 + content[0] if content else 0
        label, nonce, rest = (
            content[1:label_end],
            content[label_end : label_end + _NONCE_BYTES],
            label_end + _NONCE_BYTES,
        )
        cipher = self._ciphers.get(label)
        if cipher is None:
            raise Unsealable(f"the definition is sealed with key {label.decode(errors='replace')!r}, which is not here")
        if len(nonce) < _NONCE_BYTES:
            raise Unsealable("the sealed definition is cut off")
        try:
            plain = cipher.decrypt(nonce, content[rest:], None)
        except self._invalid_tag as error:
            text = f"the definition was changed, or key {label.decode()!r} had another passphrase when it was sealed"
            raise Unsealable(text) from error
        return _open_plain(plain)


def _open_plain(plain: bytes) -> bytes:
    if not plain.startswith(_PLAIN):
        raise Unsealable("the definition does not begin with the plaintext header 02 00")
    return plain[len(_PLAIN) :]
