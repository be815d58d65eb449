"""The file of encryption keys: a JSON object, each key's label to its passphrase (board-api.md section 13).

    {"2025": "the old passphrase", "2026": "the new one"}

No text of an error holds a passphrase, so none holds a piece of the file but labels.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Final

from bulletin.board.settings import SettingError

__all__ = ["read_keys"]

#: Hundreds of keys; what is larger is another file.
_FILE_BYTES_MAX: Final = 64 * 1024
#: Others may not touch it at all, and its group may only read it.
_MODE_REFUSED: Final = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


def read_keys(path: Path) -> dict[str, str]:
    """Every key of the file, label to passphrase, in its order.

    Raises:
        SettingError: it cannot be read, is open to others, or is not of that form.
    """
    try:
        # Not blocking: a named pipe in the file's place must not stop a start.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _refused(path, "is not a file")
            if status.st_mode & _MODE_REFUSED:
                mode = stat.S_IMODE(status.st_mode)
                raise _refused(path, f"others may read or change the keys (mode {mode:04o}); chmod 0600 {path}")
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise _refused(path, f"has more than {_FILE_BYTES_MAX} bytes")
    try:
        pairs = json.loads(data, object_pairs_hook=list)
    except (ValueError, RecursionError):
        # The parser's own text may quote the file.
        raise _refused(path, "is not JSON") from None
    keys = _unique(path, pairs)
    if not keys:
        raise _refused(path, "holds no key")
    return keys


def _unique(path: Path, pairs: object) -> dict[str, str]:
    """The pairs as a mapping; JSON itself would let the second of two equal labels win in silence."""
    keys: dict[str, str] = {}
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise _refused(path, "is not a JSON object")
    for label, passphrase in pairs:
        if not isinstance(passphrase, str):
            raise _refused(path, f"the passphrase of {label!r} is not a string")
        if label in keys:
            raise _refused(path, f"two keys have the label {label!r}")
        keys[label] = passphrase
    return keys


def _refused(path: Path, what: str) -> SettingError:
    return SettingError(
        f'encryption_keys: {path}: {what}; the file is a JSON object of labels and passphrases: {{"2026": "..."}}'
    )
