"""``wait`` and ``run``: one stream for all, and no wait lost."""

from __future__ import annotations

import asyncio

import pytest

from bulletin import (
    AsyncClient,
    BoardUnreachable,
    Refused,
    Task,
    TaskExists,
    TaskGone,
    TaskNotFound,
    TaskState,
    WaitTimeout,
)
from bulletin.client import waits
from bulletin.client.waits import Wait
from bulletin.core.operations import (
    Cancel,
    Complete,
    Delete,
    Desire,
    Reject,
    Resolving,
    Start,
    TaskChanged,
    TaskCreated,
    TaskRemoved,
)
from bulletin.wire.events import encode_event
from bulletin.wire.tasks import encode_definition, summarise

DESIRE = "/v1/tasks/desire.r2"
GET = "/v1/tasks/get_by_task_guid.r3"
STREAM = "/v1/events/tasks.r1"


@pytest.fixture
def stored(definition):
    return summarise(encode_definition(definition))


@pytest.fixture
def until_waiting(client, eventually):
    """Wait until a wait for the guid knows which task it is for."""

    async def until(guid: str, client: AsyncClient = client) -> None:
        await eventually(lambda: any(wait.is_confirmed for wait in client._open_waits()._by_guid.get(guid, ())))

    return until


def life(stored, created_at, *, state=TaskState.COMPLETED, result=""):
    return Task("g", "d", stored, state, created_at, created_at, result=result)


async def test_a_wait_holds_an_end_until_it_is_known_to_be_its_own(stored):
    wait = Wait("g")
    # Somebody else's task of that guid, from beginning to end, while our desire is under way.
    wait.hear(TaskCreated(life(stored, 1, state=TaskState.PENDING)))
    wait.hear(TaskChanged(life(stored, 1, state=TaskState.RUNNING), life(stored, 1, result="theirs")))
    wait.hear(TaskRemoved(life(stored, 1, result="theirs")))
    wait.hear(TaskCreated(life(stored, 2, state=TaskState.PENDING)))
    wait.confirm()
    wait.hear(TaskChanged(life(stored, 2, state=TaskState.RUNNING), life(stored, 2, result="ours")))
    assert (await wait.ended()).result == "ours"


async def test_a_wait_is_not_misled_by_an_older_end_that_comes_late(stored):
    wait = Wait("g")
    wait.hear(TaskChanged(life(stored, 2, state=TaskState.RUNNING), life(stored, 2, result="ours")))
    wait.hear(TaskRemoved(life(stored, 1, result="older")))
    wait.confirm()
    wait.hear(TaskCreated(life(stored, 2, state=TaskState.PENDING)))
    assert (await wait.ended()).result == "ours"


async def test_a_wait_for_a_task_that_was_found_is_for_no_later_one(stored):
    wait = Wait("g")
    wait.find(life(stored, 1, state=TaskState.RUNNING))
    wait.hear(TaskCreated(life(stored, 2, state=TaskState.PENDING)))
    wait.hear(TaskRemoved(life(stored, 1, result="ours")))
    assert (await wait.ended()).result == "ours"


async def test_run_costs_one_stream_one_desire_and_nothing_else(board, client, definition):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await board.finish("g", result="r")
    outcome = await running
    assert (outcome.guid, outcome.succeeded, outcome.result, outcome.exit_status) == ("g", True, "r", 0)
    assert board.requests == [STREAM, DESIRE]

    running = asyncio.create_task(client.run(definition, guid="h", domain="other"))
    await board.desired("h")
    assert board.tasks["h"].domain == "other"
    await board.finish("h", failed=True, reason="APP: Exited with status 4")
    outcome = await running
    assert (outcome.succeeded, outcome.exit_status) == (False, 4)
    assert outcome.failure_reason == "APP: Exited with status 4"
    assert board.requests == [STREAM, DESIRE, DESIRE]


async def test_run_makes_a_guid(board, client, definition):
    running = asyncio.create_task(client.run(definition))
    await board.until(lambda: len(board.tasks) == 1)
    (guid,) = board.tasks
    await board.finish(guid)
    assert (await running).guid == guid
    assert board.tasks[guid].domain == "default"


async def test_wait_for_a_task_that_ends(board, client, stored, until_waiting):
    await board.do(Desire("g", "d", stored))
    waiting = asyncio.create_task(client.wait("g"))
    await until_waiting("g")
    await board.do(Start("g", "c"))
    await board.do(Complete("g", "c", False, "", "r"))
    task = await waiting
    assert (task.state, task.result) == (TaskState.COMPLETED, "r")


@pytest.mark.parametrize("operations", [[Cancel("g")], [Cancel("g"), Resolving("g")]])
async def test_wait_for_a_task_that_has_ended(board, client, stored, operations):
    await board.do(Desire("g", "d", stored))
    for operation in operations:
        await board.do(operation)
    task = await client.wait("g")
    assert task.failure_reason == "task was cancelled"


async def test_wait_for_nobody(client):
    with pytest.raises(TaskNotFound):
        await client.wait("g")


async def test_a_rejection_is_no_end(board, client, stored, until_waiting):
    await board.do(Desire("g", "d", stored))
    waiting = asyncio.create_task(client.wait("g"))
    await until_waiting("g")
    await board.do(Start("g", "c"))
    await board.do(Reject("g", "no room"))
    await board.finish("g", result="r")
    task = await waiting
    assert (task.rejection_reason, task.result) == ("no room", "r")


async def test_sixteen_waits_share_one_stream(board, client, definition):
    running = [asyncio.create_task(client.run(definition, guid=f"g{n}")) for n in range(16)]
    await board.until(lambda: len(board.tasks) == 16)
    for n in reversed(range(16)):
        await board.finish(f"g{n}", result=str(n))
    outcomes = await asyncio.gather(*running)
    assert [outcome.result for outcome in outcomes] == [str(n) for n in range(16)]
    assert board.count(STREAM) == 1
    assert board.count(GET) == 0


async def test_several_waits_for_one_task(board, client, stored):
    await board.do(Desire("g", "d", stored))
    waiting = [asyncio.create_task(client.wait("g")) for _ in range(4)]
    await board.until(lambda: board.count(GET) == 4)
    await board.do(Cancel("g"))
    assert {task.failure_reason for task in await asyncio.gather(*waiting)} == {"task was cancelled"}
    assert board.count(STREAM) == 1


async def test_the_last_word_of_a_removed_task_is_its_outcome(board, client, definition):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    # The client misses the end itself: all it is told is that the task, as last stored, was removed.
    board.quietly(Start("g", "c"))
    board.quietly(Complete("g", "c", False, "", "r"))
    board.quietly(Resolving("g"))
    await board.do(Delete("g"))
    outcome = await running
    assert (outcome.result, outcome.task.state) == ("r", TaskState.RESOLVING)


async def test_a_task_removed_before_its_end_is_gone(board, client, definition, until_waiting):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await until_waiting("g")
    board.send(encode_event(TaskRemoved(board.tasks["g"])))
    with pytest.raises(TaskGone, match="before it had ended"):
        await running


async def test_the_end_of_an_older_task_of_that_guid_is_not_taken(board, client, definition, stored):
    await board.do(Desire("g", "d", stored))
    await board.finish("g", result="old")
    async with client._open_waits().watching("g"):
        # The stream stands; now the old task goes while a new one of the guid is being desired.
        running = asyncio.create_task(client.run(definition, guid="g"))
        await board.do(Resolving("g"))
        await board.do(Delete("g"))
        await board.desired("g")
        await board.finish("g", result="new")
        assert (await running).result == "new"


async def test_an_end_that_is_told_before_the_beginning(board, client, definition):
    """The reference sends events out of order; the end waits for the beginning then."""
    held: list[bytes] = []
    real = board.do

    async def reordering(operation):
        if not isinstance(operation, Desire):
            return await real(operation)
        streams, board.streams = board.streams, set()
        await real(operation)
        board.streams = streams
        held.append(encode_event(TaskCreated(board.tasks[operation.guid])))
        return None

    board.do = reordering
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await board.finish("g", result="r")
    board.send(held[0])
    assert (await running).result == "r"


async def test_a_refused_desire_leaves_no_wait(board, client, definition, stored):
    await board.do(Desire("g", "d", stored))
    with pytest.raises(TaskExists):
        await client.run(definition, guid="g")
    assert client._open_waits()._by_guid == {}


async def test_a_desire_whose_answer_was_lost_still_brings_the_outcome(board, client, definition):
    board.order(DESIRE, "lose answer")
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await board.finish("g", result="r")
    assert (await running).result == "r"


@pytest.mark.parametrize("end", ["cut_streams", "end_streams"])
async def test_a_stream_that_ends_is_opened_again(board, client, definition, end, until_waiting):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await until_waiting("g")
    getattr(board, end)()
    await board.until(lambda: board.count(STREAM) == 2 and board.count(GET) == 1)
    await board.finish("g", result="r")
    assert (await running).result == "r"


@pytest.mark.parametrize("end", ["cut_streams", "end_streams"])
async def test_an_end_during_a_cut_is_found(board, client, definition, end, until_waiting):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await until_waiting("g")
    board.quietly(Start("g", "c"))
    board.quietly(Complete("g", "c", False, "", "r"))
    getattr(board, end)()
    assert (await running).result == "r"
    assert board.requests == [STREAM, DESIRE, STREAM, GET]


async def test_a_task_removed_during_a_cut_is_gone(board, client, definition, until_waiting):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await until_waiting("g")
    del board.tasks["g"]
    board.cut_streams()
    with pytest.raises(TaskGone, match="while the stream of events was cut"):
        await running


async def test_a_guid_taken_by_another_task_during_a_cut_is_gone(board, client, stored, until_waiting):
    await board.do(Desire("g", "d", stored))
    waiting = asyncio.create_task(client.wait("g"))
    await until_waiting("g")
    del board.tasks["g"]
    board.quietly(Desire("g", "d", stored))
    board.cut_streams()
    with pytest.raises(TaskGone, match="another has its guid"):
        await waiting


async def test_a_cut_while_the_desire_is_under_way(board, client, definition, eventually):
    """Created is lost with the stream, and so is the end: the task is looked up once the desire is answered."""
    answering = asyncio.Event()
    real = board._desire_task

    async def slow(message):
        board.cut_streams()
        answer = await real(message)
        board.quietly(Start("g", "c"))
        board.quietly(Complete("g", "c", False, "", "r"))
        await board.until(lambda: board.count(STREAM) == 2)
        await eventually(lambda: client._waits._epoch == 2)
        answering.set()
        return answer

    board._desire_task = slow
    assert (await client.run(definition, guid="g")).result == "r"
    assert answering.is_set()
    assert board.count(GET) == 1


async def test_a_cut_while_a_wait_looks_its_task_up(board, client, stored, eventually):
    await board.do(Desire("g", "d", stored))
    real = board._task_by_guid

    async def stale(message):
        answer = await real(message)
        board._task_by_guid = real
        board.quietly(Start("g", "c"))
        board.quietly(Complete("g", "c", False, "", "r"))
        board.cut_streams()
        await board.until(lambda: board.count(STREAM) == 2)
        await eventually(lambda: client._waits._epoch == 2)
        return answer

    board._task_by_guid = stale
    assert (await client.wait("g")).result == "r"


async def test_a_board_that_restarts_loses_no_wait(board, definition, until_waiting):
    async with AsyncClient(board.url, timeout_seconds=5) as client:
        running = asyncio.create_task(client.run(definition, guid="g"))
        await board.desired("g")
        await until_waiting("g", client)
        port = board.port
        board.cut_streams()
        await board.close()
        board.quietly(Start("g", "c"))
        board.quietly(Complete("g", "c", False, "", "r"))
        await board.open(port)
        assert (await running).result == "r"


async def test_a_board_that_stays_away_fails_the_wait(board, definition, until_waiting):
    async with AsyncClient(board.url, timeout_seconds=5, reconnect_seconds=0.05) as client:
        running = asyncio.create_task(client.run(definition, guid="g"))
        await board.desired("g")
        await until_waiting("g", client)
        board.cut_streams()
        await board.close()
        with pytest.raises(BoardUnreachable):
            await running


async def test_a_busy_board_is_asked_for_the_stream_again(board, client, definition):
    board.order(STREAM, 503, 503)
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await board.finish("g")
    assert (await running).succeeded
    board.order(STREAM, 503, 503, 503)
    await client.aclose()
    with pytest.raises(BoardUnreachable, match="it answered 503 to a request for events"):
        await client.run(definition, guid="h")
    assert "h" not in board.tasks


async def test_a_stream_that_is_refused_for_good(board, client, definition):
    board.order(STREAM, 404)
    with pytest.raises(Refused, match=r"bad response from event source: 404"):
        await client.run(definition, guid="g")
    assert board.requests == [STREAM]


async def test_a_look_that_fails_fails_the_wait(board, client, definition, until_waiting):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await until_waiting("g")
    board.order(GET, *["drop"] * 3)
    board.cut_streams()
    with pytest.raises(BoardUnreachable):
        await running


async def test_a_late_task_goes_on(board, client, definition):
    with pytest.raises(WaitTimeout, match=r"task g has not ended within 0\.01 s; it goes on") as late:
        await client.run(definition, guid="g", timeout_seconds=0.01)
    assert (late.value.guid, late.value.seconds) == ("g", 0.01)
    assert board.tasks["g"].state is TaskState.PENDING
    with pytest.raises(WaitTimeout):
        await client.wait("g", timeout_seconds=0.01)
    with pytest.raises(WaitTimeout):
        await client.wait("g", timeout_seconds=0)
    await board.do(Cancel("g"))
    assert (await client.wait("g", timeout_seconds=0.01)).failed


async def test_events_that_make_no_sense_are_left_out(board, client, definition, caplog):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    board.send(b"event: task_melted\ndata: CgA=\n\n")
    board.send(b"event: task_changed\ndata: /w==\n\n")
    board.send(b": a comment\n\n")
    await board.finish("g", result="r")
    assert (await running).result == "r"
    assert [record.message.partition(":")[0] for record in caplog.records] == ["an event was left out"]


async def test_the_stream_is_closed_when_nobody_waits(board, client, definition, monkeypatch, eventually):
    client._waits = waits.Waits(client._transport, client.task, idle_seconds=0)
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await board.finish("g")
    await running
    # The server notices when it next writes.
    await board.do(Resolving("g"))
    await board.do(Delete("g"))
    await eventually(lambda: client._waits._reader is None)
    running = asyncio.create_task(client.run(definition, guid="h"))
    await board.desired("h")
    await board.finish("h")
    assert (await running).succeeded
    assert board.count(STREAM) == 2


async def test_a_new_wait_keeps_an_idle_stream(board, client, definition):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await board.finish("g")
    await running
    assert client._waits._idle is not None
    running = asyncio.create_task(client.run(definition, guid="h"))
    await board.desired("h")
    assert client._waits._idle is None
    await board.finish("h")
    await running


async def test_an_idle_stream_that_is_cut_is_not_opened_again(board, client, definition):
    running = asyncio.create_task(client.run(definition, guid="g"))
    await board.desired("g")
    await board.finish("g")
    await running
    reader = client._waits._reader
    board.cut_streams()
    await reader
    assert board.count(STREAM) == 1
    running = asyncio.create_task(client.run(definition, guid="h"))
    await board.desired("h")
    await board.finish("h")
    assert (await running).succeeded
    assert board.count(STREAM) == 2


async def test_a_wait_that_is_cancelled_leaves_the_others(board, client, stored):
    await board.do(Desire("g", "d", stored))
    first, second = (asyncio.create_task(client.wait("g")) for _ in range(2))
    await board.until(lambda: board.count(GET) == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await board.do(Cancel("g"))
    assert (await second).failed


async def test_closing_the_client_ends_its_waits(board, client, stored, until_waiting):
    await board.do(Desire("g", "d", stored))
    waiting = asyncio.create_task(client.wait("g"))
    await until_waiting("g")
    await client.aclose()
    with pytest.raises(BoardUnreachable, match="the client was closed"):
        await waiting


async def test_a_first_connection_given_up_by_one_serves_the_others(board, client, stored):
    await board.do(Desire("g", "d", stored))
    board.order(STREAM, "hang")
    impatient = asyncio.create_task(client.wait("g"))
    await board.until(lambda: board.count(STREAM) == 1)
    patient = asyncio.create_task(client.wait("g"))
    await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    assert not patient.done()
    patient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patient
