"""Users of a container, from the text of its /etc/passwd and /etc/group. Pure: hostile bytes in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ID_MAX", "Account", "find_account"]

#: The last id the kernel has; the one after it means "leave as it is".
ID_MAX: Final = 0xFFFF_FFFE
#: The kernel's NGROUPS_MAX.
_GROUPS_MAX: Final = 65_536
_ROOT: Final = b"root"


@dataclass(frozen=True, slots=True)
class Account:
    """A user, with ids as the container sees them."""

    uid: int
    gid: int
    #: Groups the user belongs to besides ``gid``.
    groups: tuple[int, ...]
    #: An absolute path.
    home: str


def find_account(name: str, passwd: bytes, group: bytes) -> Account | None:
    """Look a user up by name (cell.md 2.2); a number is a name like any other.

    ``root`` is there even where the file does not name it: an image of a single program often has no such file.
    Lines that make no sense are passed over, as the C library does.

    Returns:
        The account, None for an unknown user.
    """
    wanted = name.encode("utf-8", "surrogateescape")
    for line in passwd.splitlines():
        fields = line.split(b":")
        if len(fields) < 7 or fields[0] != wanted or not wanted:
            continue
        uid, gid = _id(fields[2]), _id(fields[3])
        if uid is None or gid is None:
            continue
        return Account(uid, gid, _groups(wanted, group), _home(fields[5]))
    if wanted == _ROOT:
        return Account(0, 0, (), "/")
    return None


def _id(text: bytes) -> int | None:
    if not text.isdigit() or len(text) > 10:
        return None
    number = int(text)
    return number if number <= ID_MAX else None


def _home(field: bytes) -> str:
    home = field.decode("utf-8", "replace")
    return home if home.startswith("/") else "/"


def _groups(name: bytes, group: bytes) -> tuple[int, ...]:
    gids: dict[int, None] = {}
    for line in group.splitlines():
        fields = line.split(b":")
        if len(fields) < 4 or name not in fields[3].split(b","):
            continue
        gid = _id(fields[2])
        if gid is not None and len(gids) < _GROUPS_MAX:
            gids[gid] = None
    return tuple(gids)
