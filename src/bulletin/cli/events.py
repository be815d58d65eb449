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
  bulletin events --json | jq -r .type
  bulletin events --json --after "$(tail -n 1 seen.jsonl | jq -r .position)" >> seen.jsonl"""


def events(
    *,
    guid: Annotated[str, Parameter(help="Only events of this task.")] = "",
    domain: Annotated[str, Parameter(help="Only events of tasks of this domain.")] = "",
    after: Annotated[str, Parameter(help="Go on behind this position, as --json shows it with each event.")] = "",
    show_secrets: Annotated[bool, Parameter(help="With --json: show passwords and the like, too.")] = False,
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """Print every event of every task from now on, one a line, until Ctrl-C.

    A connection that is cut, or a board that is replaced by its standby, is made up for: what happened meanwhile is
    printed then, and what cannot be known any more is said to be missed.
    """
    import contextlib
    import time

    from bulletin.cli.panels import show_event
    from bulletin.cli.rendering import event_value
    from bulletin.client.values import Followed, Missed

    def show(followed: Followed) -> None:
        event = followed.event
        if isinstance(event, Missed):
            printing.say(f"events were missed: {event.reason}")
            if json:
                value = {"type": "missed", "data": {"reason": event.reason}, "position": followed.position}
                printing.print_json(value)
        elif json:
            printing.print_json({**event_value(event, show_secrets=show_secrets), "position": followed.position})
        else:
            sys.stdout.write(show_event(event, time.time_ns()) + "\n")
            sys.stdout.flush()

    async def work(client: AsyncClient) -> int:
        async with contextlib.aclosing(client.follow(guid=guid, domain=domain, after=after)) as stream:
            async for followed in stream:
                show(followed)
        return OK

    return with_client(connection, work)
