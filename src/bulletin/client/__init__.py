"""The client of a board, asynchronous (``AsyncClient``) and blocking (``Client``), with its values and errors.

Names are loaded when they are first used: the errors cost nothing to import, the clients bring an HTTP library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulletin.client.aio import DEFAULT_URL, AsyncClient
    from bulletin.client.blocking import Client
    from bulletin.client.definitions import read_definition
    from bulletin.client.errors import (
        BoardError,
        BoardFault,
        BoardTimeout,
        BoardUnreachable,
        Forbidden,
        InvalidRequest,
        InvalidTransition,
        OutputNotFound,
        Refused,
        ResourceConflict,
        RunningOnAnotherCell,
        TaskExists,
        TaskGone,
        TaskNotFound,
        WaitTimeout,
    )
    from bulletin.client.values import Cell, Followed, Missed, Outcome, OutputLine

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "BoardError",
    "BoardFault",
    "BoardTimeout",
    "BoardUnreachable",
    "Cell",
    "Client",
    "Followed",
    "Forbidden",
    "InvalidRequest",
    "InvalidTransition",
    "Missed",
    "Outcome",
    "OutputLine",
    "OutputNotFound",
    "Refused",
    "ResourceConflict",
    "RunningOnAnotherCell",
    "TaskExists",
    "TaskGone",
    "TaskNotFound",
    "WaitTimeout",
    "read_definition",
]

_MODULES = {
    "DEFAULT_URL": "aio",
    "AsyncClient": "aio",
    "Client": "blocking",
    "read_definition": "definitions",
    "Cell": "values",
    "Followed": "values",
    "Missed": "values",
    "Outcome": "values",
    "OutputLine": "values",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
