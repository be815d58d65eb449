"""The driver of the step tree, where time is short and runtimes are unkind."""

from __future__ import annotations

import asyncio

import pytest

from bulletin.cell.logs import TaskLog
from bulletin.cell.runtime.api import ContainerOrder, Signal
from bulletin.cell.stepping import StepRun
from bulletin.core import limits
from bulletin.core.actions import (
    CodependentAction,
    DownloadAction,
    ParallelAction,
    RunAction,
    SerialAction,
    TimeoutAction,
    TryAction,
)
from bulletin.core.definition import TaskDefinition
from bulletin.core.steps import Policy
from bulletin.seams import SystemClock

RUN = RunAction("/run", "vcap")
QUICK = RunAction("/quick", "vcap")
SHORT = Policy(graceful_shutdown_seconds=0.01, kill_seconds=0.01)


@pytest.fixture
def start(runtime):
    """Runs an action in a fresh container of the false runtime: ``await start(action)``."""

    async def start(action, policy=SHORT):
        definition = TaskDefinition(root_fs="docker:///x", action=action, log_guid="g", log_source="APP")
        container = await runtime.create(ContainerOrder("task", definition, None))
        run = StepRun("task", definition, container, TaskLog(SystemClock()), policy)
        return run, asyncio.create_task(run.run())

    return start


async def test_a_process_that_does_not_die_is_given_up(start, runtime, script):
    runtime.processes["/run"] = script(hang="for ever")
    run, running = await start(RUN)
    await runtime.until("spawned", "/run")
    run.interrupt()
    run.interrupt()
    assert await running == "process did not exit"
    assert runtime.running["/run"][0].signals == [Signal.TERM, Signal.KILL]


async def test_others_go_on_behind_a_process_that_does_not_die(start, runtime, script):
    runtime.processes["/run"] = script(hang="for ever")
    _, running = await start(SerialAction((TryAction(TimeoutAction(RUN, 1)), QUICK)))
    assert await running is None
    assert runtime.did("spawned") == ["/run", "/quick"]


async def test_a_process_that_had_to_be_killed(start, runtime, script):
    runtime.processes["/run"] = script(hang="until KILL")
    run, running = await start(RUN)
    await runtime.until("spawned", "/run")
    run.interrupt()
    assert await running == "exceeded graceful shutdown interval"


async def test_interrupted_before_it_began(start, runtime):
    run, running = await start(RUN)
    run.interrupt()
    assert await running == "cancelled"
    assert not runtime.did("spawn")


async def test_a_spawn_that_hangs_is_given_up_after_an_interrupt(start, runtime, script):
    runtime.processes["/run"] = script(gate=asyncio.Event())
    run, running = await start(RUN)
    await runtime.until("spawn", "task")
    run.interrupt()
    assert await running == "cancelled"
    assert not runtime.did("spawned")


async def test_a_process_that_comes_after_its_interrupt_is_killed(start, runtime, script):
    gate = asyncio.Event()
    runtime.processes["/run"] = script(gate=gate, hang="until KILL")
    runtime.processes["/quick"] = script(hang="until KILL")
    patient = Policy(graceful_shutdown_seconds=60, kill_seconds=60)
    run, running = await start(ParallelAction((QUICK, RUN)), patient)
    await runtime.until("spawn", "task", times=2)
    await runtime.until("spawned", "/quick")
    run.interrupt()
    gate.set()
    await runtime.until("spawned", "/run")
    assert runtime.running["/run"][0].signals == [Signal.KILL]
    runtime.running["/quick"][0].end(0)
    assert await running is None, "all were cancelled, which is no error of a parallel"


async def test_a_spawn_that_takes_too_long_fails(start, runtime, script, monkeypatch):
    monkeypatch.setattr("bulletin.cell.stepping.SPAWN_SECONDS_MAX", 0.01)
    runtime.processes["/run"] = script(gate=asyncio.Event())
    _, running = await start(RUN)
    assert await running == "the process did not start within 0 seconds"


async def test_many_processes_at_once(start, runtime, script):
    runtime.processes["/quick"] = script(output=[b"line\n"])
    _, running = await start(ParallelAction((QUICK,) * 200))
    assert await running is None
    assert len(runtime.running["/quick"]) == 200


async def test_the_others_of_a_codependent_that_are_still_spawning(start, runtime, script):
    runtime.processes["/run"] = script(gate=asyncio.Event())
    _, running = await start(CodependentAction((QUICK, RUN, RUN)))
    assert await running == "Codependent step exited"


async def test_downloads_and_processes_side_by_side(start):
    download = DownloadAction("http://x", "/x", "vcap", artifact="it")
    _, running = await start(ParallelAction((download, QUICK, TryAction(SerialAction((download, RUN))))))
    assert await running == "this cell does not run download and upload actions yet"


async def test_cancelling_leaves_no_task_and_no_timer(start, runtime, script):
    runtime.processes["/run"] = script(hang="for ever")
    before = asyncio.all_tasks()
    _, running = await start(ParallelAction((TimeoutAction(RUN, 60_000), RUN, RUN)))
    await runtime.until("spawned", "/run", times=3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("position", [0, 1])
async def test_a_defect_of_ours_ends_the_run(start, runtime, script, monkeypatch, position):
    runtime.processes["/run"] = script(hang="until TERM")

    class Broken(Exception):
        pass

    def fail(*_):
        raise Broken

    actions = [QUICK, QUICK]
    actions[1 - position] = RUN
    run, running = await start(ParallelAction(tuple(actions)))
    monkeypatch.setattr(run._output, "write", fail)
    if position == 1:
        await runtime.until("spawned", "/run")
        runtime.running["/run"][0].end(0)
    with pytest.raises(Broken):
        await running


def test_the_bound_of_a_spawn_is_below_the_bound_of_a_start():
    assert limits.SPAWN_SECONDS_MAX <= limits.START_ANSWER_SECONDS_MAX
