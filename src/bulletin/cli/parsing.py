"""What people type, read strictly: sizes, durations, images, variables. Pure; each error says what to type instead."""

from __future__ import annotations

import re
from typing import Final

from bulletin.cell.images.references import ReferenceInvalid, parse_reference

__all__ = ["parse_duration_ms", "parse_image", "parse_size_mb", "parse_variable"]

_INT32_MAX: Final = 2**31 - 1
_INT64_MAX: Final = 2**63 - 1

_SIZE: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?\s*(?:([kmgt])(?:i?b)?)?", re.IGNORECASE | re.ASCII)
#: KiB in one of each.
_KIB: Final = {"k": 1, "m": 1024, "g": 1024**2, "t": 1024**3}

_DURATION: Final = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,6})?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ms|s|m|h|d)", re.ASCII)
_MILLISECONDS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PLAIN_SECONDS: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", re.ASCII)

#: Prefixes of a root_fs URL that has no ``//`` (cell.md 5.1).
_OPAQUE_SCHEMES: Final = ("preloaded:", "preloaded+layer:")


def parse_size_mb(text: str) -> int:
    """Read an amount of memory or disk: ``512M``, ``1.5G``, or a plain number of MB. Units are powers of 1024.

    Returns:
        Whole MiB, 0 (no limit) included.

    Raises:
        ValueError: it is no size, or no whole number of MiB, or too large for the wire.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        msg = f"{text!r} is not a size; write for example 512M, 1.5G, or 256 for MB"
        raise ValueError(msg)
    fraction = match[2] or ""
    kib, rest = divmod(int(match[1] + fraction) * _KIB[(match[3] or "m").lower()], _power_of_ten(fraction))
    size_mb, left = divmod(kib, 1024)
    if rest or left:
        msg = f"{text!r} is not a whole number of MB; write for example {size_mb + 1}M"
        raise ValueError(msg)
    if size_mb > _INT32_MAX:
        msg = f"{text!r} is more than {_INT32_MAX} MB"
        raise ValueError(msg)
    return size_mb


def parse_duration_ms(text: str, *, ms_min: int = 1) -> int:
    """Read a length of time: ``500ms``, ``2s``, ``1m30s``, ``1h``, ``1d``, or a plain number of seconds.

    Returns:
        Milliseconds, ``ms_min`` or more.

    Raises:
        ValueError: it is none, or too short, or absurdly long.
    """
    stripped = text.strip()
    if _PLAIN_SECONDS.fullmatch(stripped):
        stripped += "s"
    if not _DURATION.fullmatch(stripped):
        msg = f"{text!r} is not a length of time; write for example 500ms, 30s, 1m30s, or 10 for seconds"
        raise ValueError(msg)
    total = 0
    for whole, fraction, unit in _DURATION_PART.findall(stripped):
        total += int(whole + fraction) * _MILLISECONDS[unit] // _power_of_ten(fraction)
    if not ms_min <= total <= _INT64_MAX:
        msg = f"{text!r} must be at least {ms_min}ms" if total < ms_min else f"{text!r} is too long"
        raise ValueError(msg)
    return total


def parse_variable(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE``; the value may be empty and may hold more ``=``.

    Raises:
        ValueError: there is no name or no ``=``; the text is not repeated, it may hold a secret.
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        msg = "an environment variable is written NAME=VALUE"
        raise ValueError(msg)
    if "\0" in text:
        msg = f"the environment variable {name.partition(chr(0))[0]!r} holds a zero byte"
        raise ValueError(msg)
    return name, value


def parse_image(text: str) -> str:
    """The ``root_fs`` URL of an image as people name it.

    ``busybox:1.36`` is ``docker:///busybox#1.36``, ``host:5000/team/x`` is ``docker://host:5000/team/x``; a URL
    (``docker://…``, ``preloaded:cflinuxfs4``) stays as it is.

    Raises:
        ValueError: it is neither a URL nor a reference.
    """
    if "://" in text or text.startswith(_OPAQUE_SCHEMES):
        return text
    try:
        parse_reference(text)
    except ReferenceInvalid as error:
        msg = f"{error}; write for example busybox, busybox:1.36 or registry.example.com:5000/team/app:v1"
        raise ValueError(msg) from error
    first, slash, _ = text.partition("/")
    has_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    host, path = (first, text[len(first) + 1 :]) if has_host else ("", text)
    if "@" not in path:
        path = path.replace(":", "#", 1)
    return f"docker://{host}/{path}"


def _power_of_ten(fraction: str) -> int:
    """What the digits behind a point are divided by."""
    return int("1" + "0" * len(fraction))
