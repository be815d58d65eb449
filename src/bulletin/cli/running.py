"""What ``bulletin run`` does with a board: desire, wait, show, remove; and give up when it is told to.

A signal cancels the task on the board, so that no container outlives the command that wanted it; the second one
leaves at once, whatever becomes of the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bulletin.cli import printing
from bulletin.cli.exits import FAILED, HUNG_UP, INTERRUPTED, OK, TERMINATED, TIMEOUT
from bulletin.cli.options import Connection
from bulletin.cli.output import Said, tell_apart
from bulletin.cli.rendering import line_value
from bulletin.client.aio import AsyncClient
from bulletin.client.errors import BoardError, InvalidTransition, OutputNotFound, TaskNotFound, WaitTimeout
from bulletin.client.values import Outcome
from bulletin.core.definition import TaskDefinition
from bulletin.core.model import TaskState

__all__ = ["Order", "carry_out", "hint_for", "status_of_outcome"]

#: A task that has not ended by then is asked after once, for the patience of whoever waits.
_PATIENCE_SECONDS: Final = 3.0
#: A task that is cancelled before the board has it is cancelled again until it has.
_CANCEL_AGAIN_SECONDS: Final = 0.1
_CANCEL_TRIES_MAX: Final = 50

_TIMED_OUT: Final = re.compile(r"exceeded \S+ timeout(?:;.*)?", re.DOTALL)

_PLAIN_EXIT: Final = re.compile(r"\S+: Exited with status [0-9]+")

#: What a failure's reason holds, and what its reader may do.
_HINTS: Final = (
    ("insufficient resources", "ask for less (--memory, --disk), or see what there is: bulletin cells"),
    ("found no compatible cell", "see which cells there are and what they can run: bulletin cells"),
    ("out of memory", "allow it more: --memory"),
    ("executable file not found", "check the command; without a shell in between it must be a program of the image"),
    ("unable to find user", "name a user of the image: --user"),
    ("failed to create container", "check the image (bulletin image list) and the machine (bulletin doctor)"),
    ("failed to fetch result", "--result-file must name a file of at most 51,200 bytes that the command writes"),
    ("cell disappeared", "run it again; the cell's log tells more"),
)


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and how to tell of it."""

    guid: str
    domain: str
    definition: TaskDefinition
    wait_seconds: float | None
    keep: bool
    verbose: bool
    as_json: bool


async def carry_out(connection: Connection, order: Order) -> int:
    """Run the task and show what came of it. Returns the exit status."""
    async with connection.open() as client:
        with _signals() as told:
            work = asyncio.ensure_future(_run(client, order))
            listening = asyncio.ensure_future(told.wait())
            reassuring = asyncio.ensure_future(_reassure(client, order))
            try:
                await asyncio.wait({work, listening}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    return await _give_up(client, order, work, told.status)
                return work.result()
            finally:
                for task in (work, listening, reassuring):
                    task.cancel()
                await asyncio.gather(work, listening, reassuring, return_exceptions=True)


async def _run(client: AsyncClient, order: Order) -> int:
    try:
        outcome = await client.run(
            order.definition, guid=order.guid, domain=order.domain, timeout_seconds=order.wait_seconds
        )
    except WaitTimeout as error:
        await _cancel(client, order.guid)
        await _remove(client, order)
        printing.error(
            f"task {order.guid} had not ended within {error.seconds:g} s and was cancelled", "--wait allows more"
        )
        return TIMEOUT
    said = await _read_output(client, order)
    status = status_of_outcome(outcome)
    if order.as_json:
        _print_document(outcome, said)
    else:
        _print_output(outcome, said, verbose=order.verbose)
        _explain(outcome)
    await _remove(client, order)
    return status


async def _read_output(client: AsyncClient, order: Order) -> list[Said]:
    try:
        return tell_apart(await client.output(order.guid))
    except OutputNotFound as error:
        if order.verbose:
            printing.say(error.message)
        return []


async def _reassure(client: AsyncClient, order: Order) -> None:
    """Say once what the task is waiting for, when it takes long; without standard error on a terminal, say nothing."""
    if order.as_json or not (order.verbose or sys.stderr.isatty()):
        return
    await asyncio.sleep(_PATIENCE_SECONDS)
    with contextlib.suppress(BoardError):
        task = await client.task(order.guid)
        if task.state is TaskState.PENDING:
            reason = f" ({printing.harmless(task.rejection_reason)})" if task.rejection_reason else ""
            printing.say(f"task {order.guid} waits for a cell{reason}; `bulletin cells` shows them, Ctrl-C cancels")
        elif task.state is TaskState.RUNNING:
            printing.say(f"task {order.guid} is with cell {printing.harmless(task.cell_id)}; Ctrl-C cancels it")


# -- the end -----------------------------------------------------------------------------------------------------


def status_of_outcome(outcome: Outcome) -> int:
    """The exit status of ``run``: the command's, 124 for a timeout, 1 for a failure without a status."""
    if outcome.succeeded:
        return OK
    if _TIMED_OUT.fullmatch(outcome.failure_reason):
        return TIMEOUT
    return outcome.exit_status or FAILED


def hint_for(reason: str) -> str:
    """What to do about a failure."""
    return next((hint for words, hint in _HINTS if words in reason), "")


def _print_output(outcome: Outcome, said: list[Said], *, verbose: bool) -> None:
    at_margin = True
    for piece in said:
        if not piece.by_process:
            if verbose:
                printing.say(printing.harmless(piece.line.text))
            continue
        text = piece.line.text + ("\n" if piece.ended else "")
        if piece.line.stream == "out":
            sys.stdout.write(text)
            at_margin = piece.ended
        else:
            # Keep the order of the two on a terminal that shows both.
            sys.stdout.flush()
            sys.stderr.write(text)
            sys.stderr.flush()
    if outcome.result:
        sys.stdout.write(outcome.result if at_margin else "\n" + outcome.result)
    sys.stdout.flush()


def _print_document(outcome: Outcome, said: list[Said]) -> None:
    task = outcome.task
    printing.print_json(
        {
            "task_guid": task.guid,
            "domain": task.domain,
            "succeeded": outcome.succeeded,
            "exit_status": outcome.exit_status,
            "failure_reason": outcome.failure_reason,
            "result": outcome.result,
            "created_at": task.created_at,
            "first_completed_at": task.first_completed_at,
            "output": [line_value(piece.line) for piece in said if piece.by_process],
        }
    )


def _explain(outcome: Outcome) -> None:
    """Say why a task failed, unless its command just exited with a status, which it has explained itself."""
    reason = outcome.failure_reason
    if outcome.succeeded or _PLAIN_EXIT.fullmatch(reason):
        return
    printing.error(f"the task failed: {reason or 'the board gave no reason'}", hint_for(reason))


async def _remove(client: AsyncClient, order: Order) -> None:
    """Remove the ended task, unless it shall be kept or somebody else was faster."""
    if order.keep:
        return
    with contextlib.suppress(TaskNotFound, InvalidTransition):
        await client.resolving(order.guid)
        await client.delete(order.guid)


# -- giving up ---------------------------------------------------------------------------------------------------


async def _give_up(client: AsyncClient, order: Order, work: asyncio.Future[int], status: int) -> int:
    printing.say(f"cancelling task {order.guid}; press Ctrl-C again to leave at once")
    for _ in range(_CANCEL_TRIES_MAX):
        if await _cancel(client, order.guid):
            break
        # The desire may still be on its way.
        await asyncio.wait({work}, timeout=_CANCEL_AGAIN_SECONDS)
        if work.done():
            break
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await _remove(client, order)
    return status


async def _cancel(client: AsyncClient, guid: str) -> bool:
    """Cancel; False when the board does not know the task."""
    try:
        await client.cancel(guid)
    except TaskNotFound:
        return False
    except InvalidTransition:
        return True
    return True


class _Told:
    """Whether, and by which signal, the command was told to stop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.status = INTERRUPTED

    def tell(self, status: int) -> None:
        if self._event.is_set():
            # Nothing that could wait stands between the second signal and the end.
            os._exit(status)
        self.status = status
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


@contextlib.contextmanager
def _signals() -> Iterator[_Told]:
    told = _Told()
    loop = asyncio.get_running_loop()
    for number, status in _STATUSES.items():
        loop.add_signal_handler(number, told.tell, status)
    try:
        yield told
    finally:
        for number in _STATUSES:
            loop.remove_signal_handler(number)


_STATUSES: Final = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: HUNG_UP}
