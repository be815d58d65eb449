"""Whose line is it: a process's own output, told apart from what the cell writes between it (cell.md section 10).

``bulletin run`` gives the task and its process different log sources, so the cell's lines about the container carry
``CELL_SOURCE`` and everything around the process carries ``PROCESS_SOURCE``. Two kinds of lines of the latter are the
cell's as well, and each can only be the last one on the process's standard output: the exit line, which is glued to
output that did not end with a newline, and the line of a process that could not be started.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bulletin.client.values import OutputLine

__all__ = ["CELL_SOURCE", "PROCESS_SOURCE", "Said", "tell_apart"]

CELL_SOURCE: Final = "CELL"
PROCESS_SOURCE: Final = "APP"

_EXIT_LINE: Final = re.compile(r"(?P<glued>.*)(?P<exit>Exit status [0-9]{1,3}(?: \([^()]*\))?)", re.DOTALL)
_NOT_STARTED: Final = "failed-creating-process: "


@dataclass(frozen=True, slots=True)
class Said:
    """One piece of output."""

    line: OutputLine
    #: The process's, as opposed to the cell's.
    by_process: bool
    #: Whether a line end follows; False only for output that ended without one.
    ended: bool = True


def tell_apart(lines: Sequence[OutputLine]) -> list[Said]:
    """Take a task's kept output apart, in order."""
    last = max(
        (number for number, line in enumerate(lines) if _is_last_word(line)),
        default=-1,
    )
    said: list[Said] = []
    for number, line in enumerate(lines):
        if line.source != PROCESS_SOURCE:
            said.append(Said(line, by_process=False))
        elif number == last:
            said.extend(_split(line))
        else:
            said.append(Said(line, by_process=True))
    return said


def _is_last_word(line: OutputLine) -> bool:
    return line.source == PROCESS_SOURCE and line.stream == "out"


def _split(line: OutputLine) -> list[Said]:
    if line.text.startswith(_NOT_STARTED):
        return [Said(line, by_process=False)]
    match = _EXIT_LINE.fullmatch(line.text)
    if match is None:
        return [Said(line, by_process=True)]
    exit_line = Said(OutputLine(line.time_ns, line.stream, line.source, match["exit"]), by_process=False)
    if not match["glued"]:
        return [exit_line]
    glued = OutputLine(line.time_ns, line.stream, line.source, match["glued"])
    return [Said(glued, by_process=True, ended=False), exit_line]
