"""``bulletin task``: desire, look at, wait for, cancel and remove tasks."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import App, Parameter

from bulletin.cli import printing
from bulletin.cli.exits import FAILED, OK, USAGE, CommandFailed, status_of
from bulletin.cli.options import Connection, Json, convert, with_client
from bulletin.cli.parsing import parse_duration_ms

if TYPE_CHECKING:
    from bulletin.client.aio import AsyncClient
    from bulletin.client.values import OutputLine
    from bulletin.core.definition import TaskDefinition
    from bulletin.core.model import CallbackAttempt, Task

__all__ = ["app"]

EPILOGUE: Final = """\
Examples:
  bulletin task list --state Running
  bulletin task get GUID --json
  bulletin task desire definition.json --guid nightly-42
  bulletin task wait nightly-42 --timeout 10m
  bulletin task delete --cancel nightly-42

definition.json holds a task definition with the field names of the wire:
  {"root_fs": "docker:///busybox",
   "action": {"run_action": {"path": "true", "user": "root"}}}

Exit status: 0 ok, 1 failed, 2 wrong usage, 3 no such task, 4 wrong state or
guid taken, 5 no board, 124 timed out."""

app = App(name="task", help="Desire, look at, wait for, cancel and remove tasks.", help_epilogue=EPILOGUE)

Guid = Annotated[str, Parameter(help="The task's guid.")]
Guids = Annotated[tuple[str, ...], Parameter(help="Guids of the tasks.")]
ShowSecrets = Annotated[bool, Parameter(help="Show passwords, values of variables and contents of files, too.")]
#: A definition of more bytes is refused by every board.
_DEFINITION_BYTES_MAX: Final = 16 * 1024 * 1024


@app.command
def desire(
    definition: Annotated[
        Path, Parameter(allow_leading_hyphen=True, help="A file with the definition as JSON; - reads standard input.")
    ],
    /,
    *,
    guid: Annotated[str, Parameter(help="The task's guid; a random one when left out.")] = "",
    domain: Annotated[str, Parameter(help="The task's domain.", show_default=True)] = "default",
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """Ask for a task to be run; print its guid and return at once."""
    import uuid

    chosen = guid or str(uuid.uuid4())
    value = _read_definition(definition)

    async def work(client: AsyncClient) -> None:
        await client.desire(chosen, domain, value)

    with_client(connection, work)
    if json:
        printing.print_json({"task_guid": chosen, "domain": domain})
    else:
        sys.stdout.write(chosen + "\n")
    return OK


@app.command
def get(
    guid: Guid, /, *, show_secrets: ShowSecrets = False, json: Json = False, connection: Connection | None = None
) -> int:
    """Show one task with its definition, and the attempts to tell its completion callback."""
    from bulletin.cli.rendering import attempt_value, task_value

    async def work(client: AsyncClient) -> tuple[Task, list[CallbackAttempt]]:
        task = await client.task(guid)
        return task, await _attempts(client, task)

    task, attempts = with_client(connection, work)
    if json:
        value = task_value(task, show_secrets=show_secrets)
        printing.print_json({**value, "callback_attempts": [attempt_value(attempt) for attempt in attempts]})
    else:
        from bulletin.cli.panels import print_task

        print_task(task, attempts, show_secrets=show_secrets)
    return OK


async def _attempts(client: AsyncClient, task: Task) -> list[CallbackAttempt]:
    """Those of a task that calls back; none when it is gone by now."""
    import contextlib

    from bulletin.client.errors import TaskNotFound

    with contextlib.suppress(TaskNotFound):
        if task.definition.completion_callback_url:
            return await client.callback_attempts(task.guid)
    return []


@app.command(name="list")
def list_(
    *,
    domain: Annotated[str, Parameter(help="Only tasks of this domain.")] = "",
    cell: Annotated[str, Parameter(help="Only tasks of this cell.")] = "",
    state: Annotated[
        Literal["Pending", "Running", "Completed", "Resolving"] | None, Parameter(help="Only tasks in this state.")
    ] = None,
    show_secrets: ShowSecrets = False,
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """List tasks, oldest first; with --json one task a line."""
    from bulletin.cli.rendering import task_value

    async def work(client: AsyncClient) -> list[Task]:
        return await client.tasks(domain, cell)

    tasks = [task for task in with_client(connection, work) if state in (None, task.state.label)]
    tasks.sort(key=lambda task: (task.created_at, task.guid))
    if json:
        for task in tasks:
            printing.print_json(task_value(task, show_secrets=show_secrets))
    else:
        from bulletin.cli.panels import print_tasks

        print_tasks(tasks)
    return OK


@app.command
def wait(
    guid: Guid,
    /,
    *,
    timeout: Annotated[
        int | None, Parameter(converter=convert(parse_duration_ms), help="Wait no longer than this: 30s, 5m.")
    ] = None,
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """Wait until a task has ended; print its result and exit 0 if it succeeded, 1 if it failed."""
    from bulletin.cli.rendering import task_value

    async def work(client: AsyncClient) -> Task:
        return await client.wait(guid, None if timeout is None else timeout / 1000)

    task = with_client(connection, work)
    if json:
        printing.print_json(task_value(task))
    elif task.failed:
        from bulletin.cli.running import hint_for

        printing.error(f"task {guid} failed: {task.failure_reason}", hint_for(task.failure_reason))
    else:
        sys.stdout.write(task.result)
    return FAILED if task.failed else OK


@app.command
def output(
    guid: Guid,
    /,
    *,
    verbose: Annotated[
        bool, Parameter(name=["--verbose", "-v"], help="Put time, stream and source before each line.")
    ] = False,
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """Print the kept output of an ended task, the cell's words included; with --json one line a line."""
    from bulletin.cli.rendering import line_value

    async def work(client: AsyncClient) -> list[OutputLine]:
        return await client.output(guid)

    for line in with_client(connection, work):
        if json:
            printing.print_json(line_value(line))
        elif verbose:
            from bulletin.cli.panels import show_time

            head = f"{show_time(line.time_ns)} {line.stream} [{printing.harmless(line.source)}]"
            sys.stdout.write(f"{head} {printing.harmless(line.text)}\n")
        else:
            (sys.stdout if line.stream == "out" else sys.stderr).write(line.text + "\n")
    return OK


@app.command
def cancel(guids: Guids, /, *, json: Json = False, connection: Connection | None = None) -> int:
    """End tasks that have not ended; they are failed with "task was cancelled"."""

    async def work(client: AsyncClient, guid: str) -> None:
        await client.cancel(guid)

    return _for_each(guids, work, "cancelled", connection, as_json=json)


@app.command
def delete(
    guids: Guids,
    /,
    *,
    cancel: Annotated[bool, Parameter(help="Cancel what has not ended.")] = False,
    json: Json = False,
    connection: Connection | None = None,
) -> int:
    """Remove tasks that have ended."""

    async def work(client: AsyncClient, guid: str) -> None:
        await _delete(client, guid, cancel=cancel)

    return _for_each(guids, work, "deleted", connection, as_json=json)


async def _delete(client: AsyncClient, guid: str, *, cancel: bool) -> None:
    """Take a task through the states that are left; what somebody else does meanwhile is looked at again."""
    from bulletin.client.errors import InvalidTransition
    from bulletin.core.model import TaskState

    state: TaskState | None = TaskState.COMPLETED
    for _ in range(_DELETE_TRIES):
        try:
            if state is not TaskState.RESOLVING:
                await client.resolving(guid)
            await client.delete(guid)
        except InvalidTransition as error:
            state = error.from_state
            if state in (TaskState.PENDING, TaskState.RUNNING):
                if not cancel:
                    hint = "wait for it (bulletin task wait), or pass --cancel"
                    raise CommandFailed(f"task {guid} has not ended", hint, status_of(error)) from error
                await _cancel_quietly(client, guid)
        else:
            return
    raise CommandFailed(f"task {guid} keeps changing its state", "try again")


#: Each try gets one state further; two of Resolving going back to Completed (board-api.md section 7) are borne.
_DELETE_TRIES: Final = 6


async def _cancel_quietly(client: AsyncClient, guid: str) -> None:
    import contextlib

    from bulletin.client.errors import InvalidTransition

    with contextlib.suppress(InvalidTransition):
        await client.cancel(guid)


def _for_each(
    guids: tuple[str, ...],
    work: Callable[[AsyncClient, str], Awaitable[None]],
    done: str,
    connection: Connection | None,
    *,
    as_json: bool,
) -> int:
    """Do ``work`` for every guid, whatever becomes of the others; the first failure gives the exit status."""
    from bulletin.client.errors import BoardError, BoardUnreachable

    if not guids:
        raise CommandFailed("no task was named", "bulletin task list shows them", USAGE)

    async def work_all(client: AsyncClient) -> int:
        status = OK
        for guid in guids:
            try:
                await work(client, guid)
            except BoardUnreachable:
                raise
            except (BoardError, CommandFailed) as error:
                printing.error(error.message, error.hint)
                status = status or (error.status if isinstance(error, CommandFailed) else status_of(error))
            else:
                if as_json:
                    printing.print_json({"task_guid": guid, done: True})
                else:
                    printing.say(f"{done} {printing.harmless(guid)}")
        return status

    return with_client(connection, work_all)


def _read_definition(path: Path) -> TaskDefinition:
    """Read a definition, strictly: a field that does not exist is a mistake that should not go unseen."""
    from google.protobuf import json_format

    from bulletin.core.errors import TaskError
    from bulletin.wire.jsontext import load_json
    from bulletin.wire.proto import bbs_pb2
    from bulletin.wire.tasks import decode_definition

    name = "standard input" if str(path) == "-" else str(path)
    hint = "bulletin task --help shows a definition"
    try:
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            text = file.read(_DEFINITION_BYTES_MAX + 1)
    except OSError as error:
        raise CommandFailed(
            f"{name} cannot be read: {error.strerror}", "name a file with a definition", USAGE
        ) from error
    if len(text) > _DEFINITION_BYTES_MAX:
        raise CommandFailed(f"{name} has more than {_DEFINITION_BYTES_MAX} bytes", hint, USAGE)
    try:
        value = load_json(text)
    except TaskError as error:
        raise CommandFailed(f"{name} is not JSON", hint, USAGE) from error
    if not isinstance(value, dict):
        raise CommandFailed(f"{name} is not a JSON object", hint, USAGE)
    try:
        return decode_definition(json_format.ParseDict(value, bbs_pb2.TaskDefinition()))
    except json_format.ParseError as error:
        raise CommandFailed(f"{name} is not a definition: {error}", hint, USAGE) from error
    except TaskError as error:
        raise CommandFailed(f"{name} is not a definition: {error.message}", hint, USAGE) from error
