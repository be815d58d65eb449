"""``bulletin events``: what happens to tasks, as it happens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from bulletin.cli import printing
from bulletin.cli.exits import OK
from bulletin.cli.options import Connection, Json, with_client

if TYPE_CHECKING:
    from bulletin.client.aio import AsyncClient

__all__ = ["EPILOGUE", "events"]

EPILOGUE: Final = """\
Examples:
  bulletin events
  bulletin events --guid nightly-42
  bulletin events --json | jq -r .type"""


def events(
    *,
    guid: Annotated[str, Parameter(help="Only events of this task.")] = "",
    domain: Annotated[str, Parameter(help="Only events of tasks of this domain.")] = "",
    show_secrets: Annotated[bool, Parameter(help="With --json: show passwords and the like, too.")] = False,
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """Print every event of every task from now on, one a line, until Ctrl-C or the end of the board."""
    import contextlib
    import time

    from bulletin.cli.panels import show_event
    from bulletin.cli.rendering import event_value
    from bulletin.core.lifecycle import TaskChanged

    async def work(client: AsyncClient) -> int:
        async with contextlib.aclosing(client.events()) as stream:
            async for event in stream:
                task = event.after if isinstance(event, TaskChanged) else event.task
                if guid not in ("", task.guid) or domain not in ("", task.domain):
                    continue
                if json:
                    printing.print_json(event_value(event, show_secrets=show_secrets))
                else:
                    sys.stdout.write(show_event(event, time.time_ns()) + "\n")
                    sys.stdout.flush()
        printing.say("the board ended the stream")
        return OK

    return with_client(connection, work)
