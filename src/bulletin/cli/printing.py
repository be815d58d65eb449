"""Words and tables: data on standard output, words about it on standard error, nothing a terminal would obey."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "error",
    "harmless",
    "make_table",
    "print_json",
    "print_table",
    "say",
    "show_age",
    "show_size_mb",
    "stdout_console",
]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: Not a terminal: nobody wraps, so nothing is cut off.
_FILE_COLUMNS: Final = 10_000


def harmless(text: str) -> str:
    """``text`` from a task or a board on one line, with control and direction characters shown instead of obeyed."""
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def print_json(value: object) -> None:
    """One JSON document, on a line of its own, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Words for people, on standard error; dim on a terminal."""
    sys.stderr.write(f"\x1b[2m{text}\x1b[0m\n" if _is_coloured() else f"{text}\n")
    sys.stderr.flush()


def error(message: str, hint: str = "") -> None:
    """What went wrong in one line, and in another what to try."""
    text = f"error: {harmless(message)}\n"
    if hint:
        text += f"try: {harmless(hint)}\n"
    sys.stderr.write(text)
    sys.stderr.flush()


def stdout_console() -> Console:
    """Standard output as a place for tables and panels."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            # Rich would leave the program from here with a status of its own; ours is told by ``cli.app``.
            raise BrokenPipeError

    return Pipe(
        file=sys.stdout,
        width=None if sys.stdout.isatty() else _FILE_COLUMNS,
        highlight=False,
        markup=False,
        emoji=False,
    )


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: frozenset[str] = frozenset()) -> None:
    """A table: a head line, then a line for each row; cells are str or rich's Text.

    Args:
        columns: the heads.
        rows: as many cells each.
        right: the heads of columns that are aligned right.
    """
    from rich.text import Text

    table = make_table()
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(harmless(cell)) if isinstance(cell, str) else cell for cell in row])
    stdout_console().print(table)


def make_table() -> Table:
    """A table without lines around it, whose first column starts at the margin."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def show_size_mb(size_mb: int) -> str:
    """``512M``, ``1.5G``; 0 is ``-``, no limit."""
    if size_mb == 0:
        return "-"
    if size_mb < 1024:
        return f"{size_mb}M"
    return f"{size_mb / 1024:.1f}".removesuffix(".0") + "G"


def show_age(seconds: float) -> str:
    """About how long: ``12s``, ``3m``, ``5h``, ``2d``."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds)) // size}{unit}"
    return f"{int(seconds) // 86_400}d"


def _is_coloured() -> bool:
    import os

    return sys.stderr.isatty() and "NO_COLOR" not in os.environ
