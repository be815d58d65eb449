"""What the serving commands share: options, and how one process hands its own to another."""

from __future__ import annotations

import os
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from bulletin.cli.board import BoardOptions
    from bulletin.cli.cell import CellOptions

__all__ = ["InsecurePlainHttp", "LogLevel", "as_arguments", "as_environment"]


LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    Parameter(env_var="BULLETIN_LOG_LEVEL", help="The least that is logged.", show_default=True),
]
InsecurePlainHttp = Annotated[
    bool,
    Parameter(
        env_var="BULLETIN_INSECURE_PLAIN_HTTP",
        help="Allow plain HTTP beyond loopback: whoever reaches the board runs containers as root.",
    ),
]

#: Options that may hold a secret, and the variables that carry them: every user of a machine sees command lines.
_SECRET: Final = {"database": "BULLETIN_DATABASE"}


def as_environment(options: BoardOptions | CellOptions) -> dict[str, str]:
    """This process's environment with exactly the secrets among ``options``, for the process that is to have them."""
    environment = {name: value for name, value in os.environ.items() if name not in _SECRET.values()}
    for name, variable in _SECRET.items():
        value = getattr(options, name, "")
        if value:
            environment[variable] = value
    return environment


def as_arguments(options: BoardOptions | CellOptions) -> list[str]:
    """The command line that gives another process the same options; defaults, and what is secret, are left out."""
    arguments: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        assert option.default is not MISSING, "every option has a default"
        if value == option.default or option.name in _SECRET:
            continue
        flag = "--" + option.name.replace("_", "-")
        if isinstance(value, tuple):
            arguments.extend(f"{flag}={member}" for member in value)
        elif isinstance(value, bool):
            arguments.append(flag)
        elif isinstance(value, float):
            arguments.append(f"{flag}={value * 1000:.0f}ms")
        else:
            arguments.append(f"{flag}={value}")
    return arguments
