"""Durations and sizes as the reference prints them, which is how Go prints them (cell.md 2.2, 2.3, 2.5)."""

from __future__ import annotations

__all__ = ["cut_bytes", "duration_text", "size_text"]

_MICROSECOND_NS = 1_000
_MILLISECOND_NS = 1_000_000
_SECOND_NS = 1_000_000_000
_SIZE_UNITS = "BKMGTPE"


def duration_text(duration_ns: int) -> str:
    """A duration of ``duration_ns`` nanoseconds: ``500ms``, ``2s``, ``1m30s``, ``1h0m0s``, ``1.5s``, ``0s``."""
    if duration_ns < 0:
        return "-" + duration_text(-duration_ns)
    if duration_ns == 0:
        return "0s"
    if duration_ns < _MICROSECOND_NS:
        return f"{duration_ns}ns"
    if duration_ns < _MILLISECOND_NS:
        return f"{_decimal(duration_ns, _MICROSECOND_NS)}µs"
    if duration_ns < _SECOND_NS:
        return f"{_decimal(duration_ns, _MILLISECOND_NS)}ms"
    minutes, rest_ns = divmod(duration_ns, 60 * _SECOND_NS)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_decimal(rest_ns, _SECOND_NS)}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def size_text(size_bytes: int) -> str:
    """A size in units of 1024 with one decimal, ``.0`` dropped: ``0B``, ``512B``, ``1K``, ``12.5M``."""
    unit = 0
    while unit < len(_SIZE_UNITS) - 1 and size_bytes >= 1024 ** (unit + 1):
        unit += 1
    return f"{size_bytes / 1024**unit:.1f}".removesuffix(".0") + _SIZE_UNITS[unit]


def cut_bytes(text: str, bytes_max: int, mark: str) -> str:
    """Cut ``text`` to at most ``bytes_max`` bytes of UTF-8, ``mark`` at its end included, between two characters."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= bytes_max:
        return text
    return encoded[: bytes_max - len(mark.encode())].decode("utf-8", "ignore") + mark


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    if not rest:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0")
