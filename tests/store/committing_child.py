"""A process to be killed: commits batch after batch and says each one's number once the store has returned.

    committing_child.py DATA FIRST COUNT

Batch n writes the tasks ``n-0`` to ``n-4``, overwrites ``counter`` and removes ``m-0`` of the batch m before it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from bulletin.core.model import Definition, Task, TaskState
from bulletin.seams import SystemClock
from bulletin.store import PlainSealer, Store, make_store
from bulletin.store.api import Batch
from bulletin.store.sqlite import SqliteStore
from bulletin.wire.proto.bbs_pb2 import TaskDefinition
from bulletin.wire.tasks import summarise


def make_task(guid: str, definition: Definition, number: int) -> Task:
    return Task(guid, "d", definition, TaskState.PENDING, number, number)


def open_store(data: str) -> Store:
    if "://" in data:
        return make_store(data, sealer=PlainSealer(), clock=SystemClock())
    # So few pages that the log is moved again and again while the process is killed.
    return SqliteStore(Path(data), sealer=PlainSealer(), clock=SystemClock(), log_pages=100)


async def main(data: str, first: int, count: int) -> None:
    store = open_store(data)
    await store.open()
    lease = await store.acquire("child", 3600)
    definition = summarise(TaskDefinition(root_fs="docker:///busybox", annotation="a" * 2000))
    for number in range(first, first + count):
        tasks = [make_task(f"{number}-{part}", definition, number) for part in range(5)]
        tasks.append(make_task("counter", definition, number))
        await store.commit(
            Batch({task.guid: task for task in tasks}, {task.guid for task in tasks}, {f"{number - 1}-0"}), lease
        )
        os.write(1, b"%d\n" % number)
    await store.close()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
