"""The command line as a whole: which commands there are, how they are found, and how errors come out.

Only the module of the command that was asked for is imported, so that ``--help`` and short commands start at once.
Every expected error is one line on standard error and a second that says what to try; its exit status is in
``exits``. A traceback means a defect of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from cyclopts import App, CycloptsError, Group, Parameter

from bulletin.cli import exits, printing
from bulletin.client.errors import BoardError

__all__ = ["build", "main"]

_TASKS: Final = Group("Run tasks", sort_key=1)
_LOOK: Final = Group("Look around", sort_key=2)
_SERVE: Final = Group("Serve", sort_key=3)
_MACHINE: Final = Group("This machine", sort_key=4)

EPILOGUE: Final = f"""\
Examples:
  bulletin up                          a board and a cell here (needs root)
  bulletin run busybox -- echo hello   a command in a container, its output
  bulletin task list                   the tasks of the board
  bulletin COMMAND --help              more about a command, with examples

A board is found by --board URL, or BULLETIN_BOARD, or at 127.0.0.1:8889.

{exits.SUMMARY}"""


@dataclass(frozen=True, slots=True)
class _Command:
    """A command before its module is imported."""

    name: str
    module: str
    #: A function, or an App of its own.
    attribute: str
    #: The first line of its help.
    help: str
    group: Group
    #: Name of its epilogue in its module; an App has its own.
    epilogue: str = "EPILOGUE"
    #: Where the one made of its parameters is not clear enough.
    usage: str = ""


_RUN_USAGE: Final = "Usage: bulletin run [OPTIONS] IMAGE -- COMMAND [ARGUMENTS]"
_COMMANDS: Final = (
    _Command("run", "run", "run", "Run a command in a container and show its output.", _TASKS, usage=_RUN_USAGE),
    _Command("task", "tasks", "app", "Desire, look at, wait for, cancel and remove tasks.", _TASKS),
    _Command("cells", "cells", "cells", "List the cells and what is taken of them.", _LOOK),
    _Command("events", "events", "events", "Print what happens to tasks, as it happens.", _LOOK),
    _Command("up", "up", "up", "Run a board and a cell on this machine.", _SERVE),
    _Command("board", "board", "board", "Serve a board.", _SERVE, "BOARD_EPILOGUE"),
    _Command("cell", "cell", "cell", "Serve a cell.", _SERVE, "CELL_EPILOGUE"),
    _Command("certs", "certs", "app", "Make and renew the certificates of boards, cells and clients.", _SERVE),
    _Command("image", "images", "app", "Pull, import, list and remove images.", _MACHINE),
    _Command("doctor", "doctor", "doctor", "Check whether this machine can run containers.", _MACHINE),
    _Command("version", "version", "version", "Print the version.", _MACHINE),
)


def build(wanted: str | None = None) -> App:
    """The command line; the module of the command named ``wanted`` is imported, of the others only names are known."""
    app = App(
        name="bulletin",
        help="Run one-off container tasks, at most once, with a durable outcome.",
        help_format="plaintext",
        help_epilogue=EPILOGUE,
        version=_version,
        result_action="return_value",
        default_parameter=Parameter(negative="", show_default=False),
    )
    for flag in ("--help", "--version"):
        app[flag].group = _MACHINE
    for command in _COMMANDS:
        if command.name != wanted:
            app.command(
                f"bulletin.cli.{command.module}:{command.attribute}",
                name=command.name,
                help=command.help,
                group=command.group,
            )
            continue
        module = import_module(f"bulletin.cli.{command.module}")
        target = getattr(module, command.attribute)
        if isinstance(target, App):
            target.group = command.group
            app.command(target)
        else:
            epilogue = getattr(module, command.epilogue)
            app.command(
                target, name=command.name, group=command.group, help_epilogue=epilogue, usage=command.usage or None
            )
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; None takes the process's.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # A task may say what this terminal's encoding cannot; that is no reason to fail.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; let the interpreter's last flush go nowhere, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.PIPE_CLOSED


def _dispatch(arguments: list[str]) -> int:
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    app = build(wanted)
    try:
        result = app(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        chain = " ".join(["bulletin", *(error.command_chain or ())])
        printing.error(_one_line(str(error)), f"{chain} --help")
        return exits.USAGE
    except exits.CommandFailed as error:
        printing.error(error.message, error.hint)
        return error.status
    except BoardError as error:
        printing.error(error.message, error.hint)
        return exits.status_of(error)
    sys.stdout.flush()
    return result if isinstance(result, int) else exits.OK


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _version() -> str:
    from bulletin.cli.version import read_version

    return f"bulletin {read_version()}"
