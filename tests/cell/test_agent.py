"""The agent between a board and a runtime, each doing as the test says."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from bulletin.cell.journal import JournalError
from bulletin.cell.runtime.api import ContainerRefused, DestroyFailed, ProcessRefused, ResultUnreadable, Signal, Stream
from bulletin.core.cellwork import Completion
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2, link_pb2

Held = link_pb2.Held


def texts(completed):
    return [(line.source, line.stream, line.text) for line in completed.output]


def output(completed):
    """The lines of processes and steps, without the cell's own."""
    return [line.text for line in completed.output if not line.text.startswith("Cell ")]


# -- the link --------------------------------------------------------------------------------------------------------


async def test_a_cell_introduces_itself_and_is_ready_once(cell, board):
    hello = await cell.up()
    presence = hello.presence
    assert (presence.cell_id, presence.zone) == ("cell-1", "z1")
    assert (presence.capacity.memory_mb, presence.capacity.disk_mb, presence.capacity.containers) == (100, 1000, 5)
    assert list(hello.arbitrary_rootfs) == ["docker"]
    assert not hello.held
    await board.drop()
    again = await board.hello()
    assert again.incarnation == hello.incarnation
    await board.start()
    assert cell.welcomed == 1


async def test_a_cell_names_its_preloaded_root_file_systems(cell, board, tmp_path):
    cell.settings = replace(cell.settings, preloaded_rootfs={"cflinuxfs4": tmp_path})
    hello = await cell.up()
    assert [(each.name, list(each.properties)) for each in hello.presence.rootfs_providers] == [
        ("preloaded", ["cflinuxfs4"]),
        ("docker", []),
    ]


async def test_a_refused_cell_tries_again(cell, board):
    board.welcome = wire_link.refused("another cell named cell-1 is connected")
    await cell.up()
    assert cell.welcomed == 0
    board.welcome = wire_link.welcome("test-board")
    await board.hello()
    await board.start()
    assert cell.welcomed == 1


@pytest.mark.parametrize(
    "nonsense",
    [b"\xff\xff", wire_link.gone("x"), link_pb2.Frame(welcome=link_pb2.Welcome(protocol=99)).SerializeToString()],
)
async def test_a_board_that_begins_with_nonsense_is_dialled_again(cell, board, nonsense):
    board.welcome = nonsense
    await cell.up()
    board.welcome = wire_link.welcome("test-board")
    await board.hello()
    await board.start()
    assert cell.welcomed == 1


@pytest.mark.parametrize("frame", [b"\xff\xff", wire_link.gone("x"), wire_link.refused("go away")])
async def test_nonsense_on_the_link_ends_it_and_it_is_dialled_again(cell, board, frame):
    await cell.up()
    await board.say(frame)
    await board.hello()


async def test_a_stop_of_an_unknown_task_says_it_is_gone(cell, board):
    await cell.up()
    await board.say(wire_link.stop("who"))
    assert (await board.expect("gone")).task_guid == "who"
    await board.say(wire_link.acknowledged("who"))
    assert (await board.expect("gone")).task_guid == "who"


# -- a task that works -----------------------------------------------------------------------------------------------


async def test_a_task_from_its_assignment_until_it_is_gone(cell, board, runtime, script):
    runtime.processes["/bin/task"] = script(output=[b"hello\nwor", b"ld", (Stream.ERR, b"oops")])
    await cell.up()
    await board.start(result_file="/tmp/result")
    completed = await board.expect("completed")
    assert (completed.task_guid, completed.failed, completed.failure_reason) == ("task-1", False, "")
    assert completed.result == "the result"
    out, err = link_pb2.LogLine.OUT, link_pb2.LogLine.ERR
    assert texts(completed) == [
        ("LOG", out, "Cell cell-1 creating container for instance task-1"),
        ("LOG", out, "Cell cell-1 successfully created container for instance task-1"),
        ("LOG", out, "hello"),
        ("LOG", out, "worldExit status 0"),
        ("LOG", err, "oops"),
    ]
    assert "task-1" in runtime.containers, "destroyed before the outcome was safe"
    await board.finish()
    assert not runtime.containers
    assert not cell.agent.tasks


async def test_the_container_may_be_made_with_a_sole_process(cell, board, runtime, action):
    await cell.up()
    await board.start()
    await board.expect("completed")
    assert runtime.containers["task-1"].order.sole_run.path == "/bin/task"
    await board.finish()
    two = bbs_pb2.Action(serial_action=bbs_pb2.SerialAction(actions=[action("/a"), action("/b")]))
    await board.start("task-2", action=two)
    await board.expect("completed")
    assert runtime.containers["task-2"].order.sole_run is None


async def test_user_code_waits_for_the_grant(cell, board, runtime):
    await cell.up()
    await board.assign()
    await board.expect("start")
    await runtime.until("created", "task-1")
    assert not runtime.did("spawn")
    await board.say(wire_link.started("task-1", True))
    await board.expect("completed")
    assert runtime.did("spawn") == ["task-1"]


async def test_start_is_asked_while_the_container_is_made(cell, board, runtime):
    runtime.create_gate = asyncio.Event()
    await cell.up()
    await board.assign()
    await board.expect("start")
    await board.say(wire_link.started("task-1", True))
    await runtime.until("create", "task-1")
    runtime.create_gate.set()
    await board.expect("completed")


async def test_output_is_suppressed_and_silenced(cell, board, runtime, script, action):
    runtime.processes["/bin/task"] = script(output=[b"hello\n"])
    await cell.up()
    await board.start(action=action(suppress_log_output=True))
    assert output(await board.expect("completed")) == []
    await board.finish()
    await board.start("silent", log_rate_limit=bbs_pb2.LogRateLimit(bytes_per_second=0))
    assert output(await board.expect("completed")) == []


async def test_output_is_kept_without_a_log_guid(cell, board, runtime, script):
    runtime.processes["/bin/task"] = script(output=[b"hello\n"])
    await cell.up()
    definition = {"log_source": "APP"}
    await board.start(**definition)
    assert output(await board.expect("completed")) == ["hello", "Exit status 0"]


# -- a task that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "reason", "lines"),
    [
        ({"status": 7}, "LOG: Exited with status 7", ["Exit status 7"]),
        (
            {"status": 137, "out_of_memory": True},
            "LOG: Exited with status 137 (out of memory)",
            ["Exit status 137 (out of memory)"],
        ),
        ({"refuse": ProcessRefused("no such user")}, "no such user", ["failed-creating-process: no such user"]),
        (
            {"refuse": OSError("a defect")},
            "internal error of the cell",
            ["failed-creating-process: internal error of the cell"],
        ),
        ({"wait_error": OSError("a defect")}, "internal error of the cell", []),
        ({"wait_error": TimeoutError()}, "internal error of the cell", []),
    ],
)
async def test_a_process_that_fails(cell, board, runtime, script, behaviour, reason, lines):
    runtime.processes["/bin/task"] = script(**behaviour)
    await cell.up()
    await board.start(result_file="/tmp/result")
    completed = await board.expect("completed")
    assert (completed.failed, completed.failure_reason, completed.result) == (True, reason, "")
    assert output(completed) == lines
    assert not runtime.did("read_result")
    await board.finish()


@pytest.mark.parametrize("error", [ResultUnreadable("missing"), TimeoutError(), OSError("a defect")])
async def test_a_result_that_cannot_be_read(cell, board, runtime, error):
    runtime.result = error
    await cell.up()
    await board.start(result_file="/tmp/result")
    completed = await board.expect("completed")
    assert (completed.failed, completed.failure_reason, completed.result) == (True, "failed to fetch result", "")
    await board.finish()


async def test_a_result_that_is_not_text(cell, board, runtime):
    runtime.result = b"\xffx"
    await cell.up()
    await board.start(result_file="/tmp/result")
    assert (await board.expect("completed")).result == "\N{REPLACEMENT CHARACTER}x"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ContainerRefused("no such image"), "failed to create container: no such image"),
        (OSError("a defect"), "failed to create container: internal error of the cell"),
    ],
)
async def test_a_container_that_cannot_be_made(cell, board, runtime, error, reason):
    runtime.create_error = error
    await cell.up()
    await board.start()
    rejected = await board.expect("rejected")
    assert (rejected.task_guid, rejected.reason) == ("task-1", reason)
    await board.finish()


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"cached_dependencies": [bbs_pb2.CachedDependency(to="/x")]}, "failed to download cached artifacts"),
        ({"image_layers": [bbs_pb2.ImageLayer(url="http://x")]}, "failed to download cached artifacts"),
        (
            {"volume_mounts": [bbs_pb2.VolumeMount(driver="d")]},
            "failed to mount volume, errors: this cell has no volume drivers",
        ),
    ],
)
async def test_what_cannot_be_had_beside_the_container_is_a_rejection(cell, board, runtime, definition, reason):
    await cell.up()
    await board.start(**definition)
    assert (await board.expect("rejected")).reason == reason
    await board.finish()
    assert not runtime.did("create")


async def test_downloads_and_uploads_are_refused(cell, board, runtime):
    download = bbs_pb2.Action(
        download_action=bbs_pb2.DownloadAction(**{"from": "http://x", "to": "/x", "user": "vcap"})
    )
    await cell.up()
    await board.start(action=download)
    completed = await board.expect("completed")
    assert completed.failed
    assert completed.failure_reason == "this cell does not run download and upload actions yet"
    assert not runtime.did("spawn")
    await board.finish()


async def test_a_definition_that_cannot_be_read_is_a_rejection(cell, board):
    await cell.up()
    await board.assign(action=bbs_pb2.Action())
    assert (await board.expect("rejected")).reason.startswith("failed to create container: ")
    await board.finish()


@pytest.mark.parametrize("error", [DestroyFailed("busy"), OSError("a defect"), TimeoutError()])
async def test_destroying_is_tried_again(cell, board, runtime, error):
    runtime.destroy_errors.extend([error, error])
    await cell.up()
    await board.start()
    await board.expect("completed")
    await board.finish()
    assert len(runtime.did("destroy")) == 3


# -- trees -----------------------------------------------------------------------------------------------------------


async def test_several_processes_in_every_arrangement(cell, board, runtime, script, action):
    runtime.processes["/fails"] = script(status=3)
    tree = bbs_pb2.SerialAction(
        actions=[
            action("/one"),
            bbs_pb2.Action(
                parallel_action=bbs_pb2.ParallelAction(actions=[action("/two"), action("/three"), action("/four")])
            ),
            bbs_pb2.Action(try_action=bbs_pb2.TryAction(action=action("/fails"))),
            action("/five"),
        ]
    )
    await cell.up()
    await board.start(action=bbs_pb2.Action(serial_action=tree))
    completed = await board.expect("completed")
    assert not completed.failed
    spawned = runtime.did("spawned")
    assert spawned[0] == "/one"
    assert sorted(spawned[1:4]) == ["/four", "/three", "/two"]
    assert spawned[4:] == ["/fails", "/five"]
    assert output(completed).count("Exit status 0") == 5


async def test_a_timeout_interrupts_and_waits(cell, board, runtime, script, action):
    runtime.processes["/slow"] = script(hang="until TERM")
    timeout = bbs_pb2.TimeoutAction(action=action("/slow"), timeout_ms=20)
    await cell.up()
    await board.start(action=bbs_pb2.Action(timeout_action=timeout))
    completed = await board.expect("completed")
    assert completed.failure_reason == "exceeded 20ms timeout"
    assert runtime.running["/slow"][0].signals == [Signal.TERM]


async def test_a_codependent_ends_with_its_first(cell, board, runtime, script, action):
    runtime.processes["/server"] = script(hang="until TERM")
    both = bbs_pb2.CodependentAction(actions=[action("/server"), action("/task")])
    await cell.up()
    await board.start(action=bbs_pb2.Action(codependent_action=both))
    completed = await board.expect("completed")
    assert completed.failure_reason == "Codependent step exited"


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hang", ["until TERM", "until KILL"])
async def test_a_stop_ends_what_runs_and_reports_nothing(cell, board, runtime, script, hang):
    runtime.processes["/bin/task"] = script(hang=hang)
    await cell.up()
    await board.start(result_file="/tmp/result")
    await runtime.until("spawned", "/bin/task")
    await board.say(wire_link.stop("task-1"))
    await board.say(wire_link.stop("task-1"))
    await board.expect("gone")
    assert runtime.running["/bin/task"][0].signals[0] is Signal.TERM
    assert (Signal.KILL in runtime.running["/bin/task"][0].signals) is (hang == "until KILL")
    assert not runtime.containers
    assert not runtime.did("read_result")
    await cell.down()
    await cell.up()
    assert cell.journal.lost == (), "a stopped task is not a lost one"


async def test_a_stop_while_the_container_is_made(cell, board, runtime):
    runtime.create_gate = asyncio.Event()
    await cell.up()
    await board.start()
    await runtime.until("create", "task-1")
    await board.say(wire_link.stop("task-1"))
    await board.expect("gone")
    assert runtime.create_cancelled == 1


async def test_a_stop_before_the_container_is_begun(cell, board, runtime):
    await cell.up()
    await board.say(wire_link.stop("task-1"))
    await board.expect("gone")  # the link is up
    task = bbs_pb2.Task(task_guid="task-1")
    task.task_definition.root_fs = "docker:///x"
    task.task_definition.action.run_action.path = "/x"
    task.task_definition.action.run_action.user = "u"
    # Both within one turn of the loop: the task's coroutine has not run yet.
    cell.agent._take(link_pb2.Frame(assign=link_pb2.Assign(task=task)))
    cell.agent._take(link_pb2.Frame(stop=link_pb2.Stop(task_guid="task-1")))
    await board.expect("start")
    await board.expect("gone")
    assert not runtime.did("create")


async def test_a_stop_while_a_process_is_being_spawned(cell, board, runtime, script):
    gate = asyncio.Event()
    runtime.processes["/bin/task"] = script(hang="until KILL", gate=gate)
    await cell.up()
    await board.start()
    await runtime.until("spawn", "task-1")
    await board.say(wire_link.stop("task-1"))
    await board.expect("gone")
    assert not runtime.did("spawned")


async def test_a_stop_while_the_result_is_read(cell, board, runtime):
    runtime.result_gate = asyncio.Event()
    await cell.up()
    await board.start(result_file="/tmp/result")
    await runtime.until("read_result", "/tmp/result")
    await board.say(wire_link.stop("task-1"))
    await board.say(wire_link.stop("other"))
    assert (await board.expect("gone")).task_guid == "other"
    runtime.result_gate.set()
    await board.expect("gone")


async def test_a_refused_start_is_dropped(cell, board, runtime):
    await cell.up()
    await board.assign()
    await board.expect("start")
    await board.say(wire_link.started("task-1", False))
    await board.expect("gone")
    assert not runtime.did("spawn")
    assert not runtime.containers


async def test_a_drain_stops_everything(cell, board, runtime, script):
    runtime.processes["/bin/task"] = script(hang="until TERM")
    await cell.up()
    await board.start("running")
    await runtime.until("spawned", "/bin/task")
    runtime.create_gate = asyncio.Event()
    await board.start("preparing")
    await runtime.until("create", "preparing")
    await cell.agent.drain()
    assert not cell.agent.tasks
    assert not runtime.containers
    await board.expect("draining")
    assert {(await board.expect("gone")).task_guid for _ in range(2)} == {"running", "preparing"}
    await board.assign("late")
    await board.say(wire_link.stop("other"))
    assert (await board.expect("gone")).task_guid == "other"
    await board.drop()
    assert (await board.hello()).draining


# -- a link that breaks ----------------------------------------------------------------------------------------------


async def test_an_outcome_is_told_again_until_it_is_acknowledged(cell, board):
    await cell.up()
    await board.start(result_file="/tmp/result")
    first = await board.expect("completed")
    await board.drop()
    (held,) = (await board.hello()).held
    assert (held.task_guid, held.phase, held.memory_mb, held.disk_mb) == ("task-1", Held.REPORTING, 10, 20)
    assert await board.expect("completed") == first
    await board.finish()


async def test_an_outcome_without_a_link_is_told_on_the_next(cell, board, runtime, script):
    runtime.processes["/bin/task"] = script(hang="until TERM", status=0)
    await cell.up()
    await board.start()
    await runtime.until("spawned", "/bin/task")
    board.welcome = None
    await board.drop()
    (held,) = (await board.hello()).held
    assert held.phase == Held.RUNNING
    runtime.running["/bin/task"][0].end(0)
    assert not (await board.expect("completed")).failed, "told behind the Hello"
    await board.say(wire_link.welcome("test-board"))
    await board.finish()


async def test_an_unanswered_start_is_asked_again(cell, board, runtime):
    await cell.up()
    await board.assign()
    await board.expect("start")
    await board.drop()
    (held,) = (await board.hello()).held
    assert held.phase == Held.STARTING
    await board.expect("start")
    await board.say(wire_link.started("task-1", True))
    await board.expect("completed")
    await board.say(wire_link.started("task-1", True))
    await board.finish()
    assert runtime.did("spawn") == ["task-1"]


async def test_a_start_asked_behind_the_hello_is_not_asked_twice(cell, board, runtime):
    runtime.destroy_gate = asyncio.Event()
    await cell.up()
    await board.start()
    await board.expect("completed")
    await board.say(wire_link.acknowledged("task-1"))
    await runtime.until("destroy", "task-1")
    await board.assign(created_at=2)
    await board.say(wire_link.stop("who"))
    await board.expect("gone")
    board.welcome = None
    await board.drop()
    await board.hello()
    runtime.destroy_gate.set()
    await board.expect("start")
    await board.say(wire_link.welcome("test-board"))
    await board.say(wire_link.started("task-1", True))
    await board.expect("completed")
    await board.finish()


async def test_a_start_nobody_answers_expires(cell, board, runtime, monkeypatch):
    monkeypatch.setattr("bulletin.core.limits.START_ANSWER_SECONDS_MAX", 0.01)
    await cell.up()
    await board.assign()
    await board.expect("start")
    rejected = await board.expect("rejected")
    assert rejected.reason == "expired container"
    await board.say(wire_link.started("task-1", True))
    await board.finish()
    assert not runtime.did("spawn")


# -- a cell that dies ------------------------------------------------------------------------------------------------


async def test_an_unacknowledged_outcome_survives_the_cell(cell, board, runtime):
    await cell.up()
    await board.start("done", result_file="/tmp/result")
    await board.expect("completed")
    runtime.create_gate = asyncio.Event()
    await board.start("lost")
    await runtime.until("create", "lost")
    await cell.die()
    runtime.containers.clear()
    hello = await cell.up()
    assert [(held.task_guid, held.phase) for held in hello.held] == [("done", Held.REPORTING)]
    completed = await board.expect("completed")
    assert (completed.task_guid, completed.failed, completed.result) == ("done", False, "the result")
    await board.finish("done")
    assert "done" not in cell.journal._live


async def test_a_drain_leaves_unacknowledged_outcomes_in_the_journal(cell, board):
    await cell.up()
    await board.start()
    await board.expect("completed")
    await cell.agent.drain()
    await cell.down()
    hello = await cell.up()
    assert [held.task_guid for held in hello.held] == ["task-1"]
    assert cell.journal.owed == {"task-1": Completion(False)}


async def test_a_journal_that_fails_does_not_keep_an_outcome_back(cell, board, monkeypatch):
    await cell.up()

    def fail(*_):
        raise JournalError("the disk is full")

    for name in ("accepted", "outcome", "settled"):
        monkeypatch.setattr(cell.journal, name, fail)
    await board.start()
    await board.expect("completed")
    await board.finish()


# -- room and names --------------------------------------------------------------------------------------------------


async def test_what_does_not_fit_is_rejected(cell, board, runtime, script):
    runtime.processes["/bin/task"] = script(hang="until TERM")
    await cell.up()
    for number in range(5):
        await board.start(f"task-{number}")
    await board.assign("one-more")
    rejected = await board.expect("rejected")
    assert (rejected.task_guid, rejected.reason) == ("one-more", "insufficient resources available")
    await board.finish("one-more")
    await board.say(wire_link.stop("task-0"))
    await board.expect("gone")
    await board.start("fits-now")


async def test_the_same_assignment_twice_is_one_task(cell, board, runtime, script):
    runtime.processes["/bin/task"] = script(hang="until TERM")
    await cell.up()
    await board.start()
    await runtime.until("spawned", "/bin/task")
    await board.assign()
    await board.say(wire_link.stop("task-1"))
    await board.expect("gone")
    assert runtime.did("create") == ["task-1"]


async def test_a_new_task_of_an_old_name_waits_until_the_old_one_is_gone(cell, board, runtime, script):
    runtime.processes["/bin/task"] = script(hang="until TERM")
    await cell.up()
    await board.start(created_at=1)
    await runtime.until("spawned", "/bin/task")
    await board.start(created_at=2)
    await runtime.until("spawned", "/bin/task", times=2)
    assert [what for what, about in runtime.told if about == "task-1"] == [
        "create",
        "created",
        "spawn",
        "destroy",
        "create",
        "created",
        "spawn",
    ]
    await board.say(wire_link.stop("task-1"))
    await board.expect("gone")
    assert board.frames.empty()


async def test_a_task_that_comes_back_while_it_leaves_waits_too(cell, board, runtime):
    await cell.up()
    await board.start()
    await board.expect("completed")
    runtime.destroy_errors.append(DestroyFailed("busy"))
    await board.say(wire_link.acknowledged("task-1"))
    await runtime.until("destroy", "task-1")
    await board.start()
    await board.expect("completed")
    await board.finish()
    assert len(runtime.did("create")) == 2


@pytest.fixture
async def waiting(cell, board, runtime):
    """A task that waits for an older one of its name, which is being destroyed until ``destroy_gate`` is set."""
    runtime.destroy_gate = asyncio.Event()
    await cell.up()
    await board.start()
    await board.expect("completed")
    await board.say(wire_link.acknowledged("task-1"))
    await runtime.until("destroy", "task-1")
    await board.assign(created_at=2)


async def test_a_stop_of_a_task_that_waits_for_its_name(waiting, board, runtime):
    await board.say(wire_link.stop("task-1"))
    await board.say(wire_link.stop("other"))
    await board.expect("gone")
    runtime.destroy_gate.set()
    await board.expect("gone")
    assert runtime.did("create") == ["task-1"]


async def test_a_drain_forgets_a_task_that_waits_for_its_name(waiting, cell, board, runtime):
    await board.say(wire_link.stop("other"))
    await board.expect("gone")
    draining = asyncio.create_task(cell.agent.drain())
    await board.expect("draining")
    runtime.destroy_gate.set()
    await draining
    await board.expect("gone")
    assert runtime.did("create") == ["task-1"]
