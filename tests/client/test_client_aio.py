"""``AsyncClient``: calls, their errors, retries and replays."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from bulletin import (
    AsyncClient,
    BoardFault,
    BoardTimeout,
    BoardUnreachable,
    CallbackAttempt,
    Cell,
    InvalidRequest,
    InvalidTransition,
    OutputLine,
    OutputNotFound,
    RunAction,
    RunningOnAnotherCell,
    TaskDefinition,
    TaskExists,
    TaskNotFound,
    TaskState,
    TryAction,
    read_definition,
)
from bulletin.core.errors import ErrorType, TaskError
from bulletin.core.operations import Cancel, Desire, RecordAttempts, Resolving
from bulletin.wire.proto import bbs_pb2
from bulletin.wire.tasks import encode_definition, encode_task, summarise

DESIRE = "/v1/tasks/desire.r2"
PING = "/v1/ping"


async def test_ping_domains_cells(board, client):
    assert await client.ping() is True
    assert await client.domains() == []
    await client.upsert_domain("d", 60)
    assert board.domains == {"d": 60}
    assert await client.domains() == ["d"]
    assert await client.cells() == []
    board.cells.append(
        bbs_pb2.CellPresence(
            cell_id="c",
            zone="z1",
            capacity=bbs_pb2.CellCapacity(memory_mb=1024, disk_mb=2048, containers=10),
            rootfs_providers=[
                bbs_pb2.Provider(name="preloaded", properties=["a", "b"]),
                bbs_pb2.Provider(name="docker"),
            ],
            placement_tags=["t"],
            optional_placement_tags=["o"],
            rep_url="https://c",
        )
    )
    assert await client.cells() == [
        Cell(
            "c",
            "z1",
            1024,
            2048,
            10,
            frozenset({"docker"}),
            {"preloaded": frozenset({"a", "b"})},
            frozenset({"t"}),
            frozenset({"o"}),
            "https://c",
        )
    ]


@pytest.mark.parametrize("ttl", [-1, 2**32])
async def test_a_ttl_that_does_not_fit_is_refused_here(board, client, ttl):
    with pytest.raises(InvalidRequest, match="ttl_seconds"):
        await client.upsert_domain("d", ttl)
    assert board.requests == []


async def test_a_task_from_desire_to_delete(board, client, definition):
    await client.desire("g", "d", definition)
    task = await client.task("g")
    assert (task.guid, task.domain, task.state) == ("g", "d", TaskState.PENDING)
    assert read_definition(task) == definition
    assert [task.guid for task in await client.tasks()] == ["g"]
    assert await client.tasks("other") == []
    assert await client.tasks(cell_id="cell") == []
    assert await client.start("g", "cell") is True
    assert await client.start("g", "cell") is False
    assert [task.guid for task in await client.tasks(domain="d", cell_id="cell")] == ["g"]
    await client.complete("g", "cell", failed=True, failure_reason="why", result="r")
    task = await client.task("g")
    assert (task.state, task.failed, task.failure_reason, task.result) == (TaskState.COMPLETED, True, "why", "r")
    await client.resolving("g")
    await client.delete("g")
    assert board.tasks == {}
    # One connection carried it all.
    assert len(board.connections) == 1


async def test_a_whole_definition_survives_the_way(client):
    definition = TaskDefinition(
        root_fs="docker://host:5000/x#tag",
        action=TryAction(RunAction(path="/x", user="root", args=("a", "b"), env=(("A", "1"), ("A", "2")))),
        environment_variables=(("K", "V"),),
        memory_mb=5,
        image_username="u",
        image_password="p",
        network_properties={},
        log_rate_limit_bytes_per_second=-1,
        organizational_units=(),
    )
    await client.desire("g", "d", definition)
    assert read_definition(await client.task("g")) == definition


async def test_refusals_are_told_apart_and_not_retried(board, client, definition):
    await client.desire("g", "d", definition)
    board.requests.clear()
    with pytest.raises(TaskExists, match="a task g exists already") as exists:
        await client.desire("g", "other", definition)
    assert not exists.value.repeated
    with pytest.raises(TaskNotFound, match="there is no task nobody"):
        await client.cancel("nobody")
    with pytest.raises(InvalidTransition) as moved:
        await client.delete("g")
    assert (moved.value.from_state, moved.value.to_state) == (TaskState.PENDING, TaskState.RESOLVING)
    await client.start("g", "a")
    with pytest.raises(RunningOnAnotherCell) as elsewhere:
        await client.complete("g", "b")
    assert (elsewhere.value.actual, elsewhere.value.requested) == ("a", "b")
    with pytest.raises(InvalidRequest) as invalid:
        await client.desire("h", "d", replace(definition, root_fs=""))
    assert invalid.value.problems == ("Invalid field: rootfs", "invalid action type")
    await client.fail("g", "because")
    with pytest.raises(InvalidTransition):
        await client.fail("g", "because")
    with pytest.raises(InvalidRequest):
        await client.reject("g", "because")
    assert len(board.requests) == 9


async def test_what_cannot_be_encoded_is_refused_here(board, client, definition):
    deep: object = definition.action
    for _ in range(60):
        deep = TryAction(deep)
    with pytest.raises(InvalidRequest):
        await client.desire("g", "d", replace(definition, action=deep))
    with pytest.raises(InvalidRequest):
        await client.desire("g", "d", replace(definition, memory_mb=2**40))
    with pytest.raises(InvalidRequest):
        await client.desire("g", "d", replace(definition, annotation="\ud800"))
    assert board.requests == []


@pytest.mark.parametrize("fault", ["drop", 404, 405, 500, 503, 200, "garbage", "router"])
async def test_transport_failures_are_tried_again(board, client, fault):
    board.order(PING, fault, fault)
    assert await client.ping() is True
    assert board.count(PING) == 3


@pytest.mark.parametrize(
    ("fault", "words", "hint"),
    [
        ("drop", "cannot be reached", "bulletin up"),
        (404, "it answered 404 text/plain to /v1/ping: is it a board", "bulletin up"),
        (503, "it answered 503: it is not serving now", "another board is taking over"),
        ("garbage", "its answer to /v1/ping cannot be read", "bulletin up"),
        ("router", "a router on the way says 'unknown_route'", "bulletin up"),
    ],
)
async def test_three_attempts_and_no_more(board, client, fault, words, hint):
    board.order(PING, *[fault] * 4)
    with pytest.raises(BoardUnreachable, match=words) as failed:
        await client.ping()
    assert hint in failed.value.hint
    assert board.count(PING) == 3


async def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(BoardUnreachable, match="connection refused; start one with"):
                await client.ping()
            with pytest.raises(BoardUnreachable, match="connection refused"):
                await client.wait("g")
            with pytest.raises(BoardUnreachable, match="connection refused"):
                async for _ in client.events():
                    pass


async def test_no_such_host_says_so():
    async with AsyncClient("http://no-such-host.invalid:1", retries=1) as client:
        with pytest.raises(
            BoardUnreachable, match=r"the board at http://no-such-host.invalid:1 cannot be reached: \S+"
        ):
            await client.ping()


async def test_a_slow_board_times_out(board):
    async with AsyncClient(board.url, timeout_seconds=0.05, retries=2) as client:
        board.order(PING, "hang", "hang")
        with pytest.raises(BoardTimeout, match=r"no answer within 0.05 s"):
            await client.ping()
    assert board.count(PING) == 2


@pytest.mark.parametrize("url", ["", "127.0.0.1:8889", "ftp://x", "http://", "/x"])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="is not the URL of a board"):
        AsyncClient(url)


@pytest.mark.parametrize("bad", [{"retries": 0}, {"timeout_seconds": 0}])
def test_settings_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AsyncClient(**bad)


async def test_a_trailing_slash_makes_no_double_one(board):
    async with AsyncClient(board.url + "/") as client:
        assert await client.ping()


async def test_a_desire_whose_answer_was_lost_is_recognised(board, client, definition):
    board.order(DESIRE, "lose answer")
    await client.desire("g", "d", replace(definition, image_username="u", image_password="p"))
    assert board.count(DESIRE) == 2
    assert set(board.tasks) == {"g"}


async def test_a_board_that_keeps_the_password_to_itself(board, client, definition, monkeypatch):
    async def without_password(_message: object) -> bytes:
        task = bbs_pb2.Task.FromString(encode_task(board.tasks["g"]))
        task.task_definition.image_password = ""
        return bbs_pb2.TaskResponse(task=task).SerializeToString()

    monkeypatch.setattr(board, "_task_by_guid", without_password)
    board.order(DESIRE, "lose answer")
    await client.desire("g", "d", replace(definition, image_username="u", image_password="p"))


@pytest.mark.parametrize("change", [{"domain": "other"}, {"memory": 77}])
async def test_a_different_task_of_that_guid_is_not_taken_for_ours(board, client, definition, change):
    await client.desire("g", "d", definition)
    board.order(DESIRE, "drop")
    with pytest.raises(TaskExists) as exists:
        await client.desire("g", change.get("domain", "d"), replace(definition, memory_mb=change.get("memory", 0)))
    assert exists.value.repeated


async def test_an_identical_task_is_not_ours_when_no_answer_was_lost(client, definition):
    await client.desire("g", "d", definition)
    with pytest.raises(TaskExists):
        await client.desire("g", "d", definition)


async def test_a_task_that_went_in_between_is_reported_as_it_is(board, client, definition, monkeypatch):
    await client.desire("g", "d", definition)
    board.order(DESIRE, "drop")

    async def gone(_message: object) -> bytes:
        raise TaskError(ErrorType.RESOURCE_NOT_FOUND)

    monkeypatch.setattr(board, "_task_by_guid", gone)
    with pytest.raises(TaskExists) as exists:
        await client.desire("g", "d", definition)
    assert exists.value.repeated


async def test_output(board, client):
    board.outputs["g"] = [
        {"time_ns": 5, "stream": "out", "source": "APP", "text": "hällo"},
        {"time_ns": 6, "stream": "err", "source": "LOG", "text": ""},
    ]
    assert await client.output("g") == [OutputLine(5, "out", "APP", "hällo"), OutputLine(6, "err", "LOG", "")]
    board.outputs["empty"] = []
    assert await client.output("empty") == []
    with pytest.raises(OutputNotFound, match="the task has not ended"):
        await client.output("other")


async def test_output_of_a_board_that_keeps_none(board, client):
    board.order("/v1/tasks/g/output", 404)
    with pytest.raises(OutputNotFound, match="this board does not keep any"):
        await client.output("g")
    # A guid is one step of a path, whatever it holds.
    board.outputs["a/b?c"] = []
    assert await client.output("a/b?c") == []


async def test_output_that_cannot_be_read(board, client):
    board.outputs["g"] = [{"time_ns": 5, "stream": "sideways", "source": "APP", "text": "x"}]
    with pytest.raises(BoardFault, match="the kept output cannot be read"):
        await client.output("g")
    board.order("/v1/tasks/g/output", 500)
    with pytest.raises(BoardFault, match="it answered 500"):
        await client.output("g")
    board.order("/v1/tasks/g/output", *["drop"] * 9)
    with pytest.raises(BoardUnreachable):
        await client.output("g")


ATTEMPTS = (CallbackAttempt(5, 7, 503, "status 503"), CallbackAttempt(6, 8, 0, "connection refused"))


async def resolving(board, definition, guid="g"):
    await board.do(Desire(guid, "d", summarise(encode_definition(definition))))
    for operation in (Cancel(guid), Resolving(guid), RecordAttempts(guid, ATTEMPTS)):
        await board.do(operation)


async def test_callback_attempts(board, client, definition):
    await resolving(board, definition)
    assert await client.callback_attempts("g") == list(ATTEMPTS)
    await board.do(Desire("other", "d", summarise(encode_definition(definition))))
    assert await client.callback_attempts("other") == []
    with pytest.raises(TaskNotFound):
        await client.callback_attempts("none")


async def test_callback_attempts_of_a_board_that_keeps_none(board, client):
    board.order("/v1/tasks/g/callbacks", 404)
    assert await client.callback_attempts("g") == []


async def test_callback_attempts_that_cannot_be_read(board, client, definition):
    await resolving(board, definition)
    board.order("/v1/tasks/g/callbacks", 500)
    with pytest.raises(BoardFault, match="it answered 500"):
        await client.callback_attempts("g")
    board.tasks["g"] = replace(board.tasks["g"], attempts=(CallbackAttempt("5", 7, 503, "x"),))
    with pytest.raises(BoardFault, match="the callback attempts cannot be read"):
        await client.callback_attempts("g")


async def test_a_task_of_an_unknown_state_is_a_fault_of_the_board(board, client, definition, monkeypatch):
    async def answer(_message: object) -> bytes:
        return bbs_pb2.TaskResponse(task=bbs_pb2.Task(task_guid="g", state=9)).SerializeToString()

    monkeypatch.setattr(board, "_task_by_guid", answer)
    with pytest.raises(BoardFault, match="unknown state 9"):
        await client.task("g")


async def test_a_definition_that_is_none_is_a_fault_of_the_board(board, client, definition):
    await client.desire("g", "d", definition)
    task = await client.task("g")
    broken = replace(task, definition=replace(task.definition, encoded=b"\xff"))
    with pytest.raises(BoardFault, match="could not deserialize"):
        read_definition(broken)


async def test_a_closed_client_opens_again(board):
    client = AsyncClient(board.url)
    assert await client.ping()
    await client.aclose()
    await client.aclose()
    assert await client.ping()
    await client.aclose()


async def test_cancel_by_the_caller_goes_through(board, client):
    board.order(PING, "hang")
    call = asyncio.create_task(client.ping())
    await board.until(lambda: board.count(PING) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_password_never_stands_in_an_error(board, client, definition):
    secret = "hunter2"
    board.order(DESIRE, "drop")
    await client.desire("g", "d", replace(definition, image_username="u", image_password="other"))
    board.order(DESIRE, "drop")
    with pytest.raises(TaskExists) as exists:
        await client.desire("g", "elsewhere", replace(definition, image_username="u", image_password=secret))
    assert secret not in repr(exists.value) + str(exists.value)


async def test_an_answer_that_is_too_large_is_not_read(board, client, monkeypatch):
    monkeypatch.setattr("bulletin.core.limits.CLIENT_ANSWER_BYTES_MAX", 1)
    with pytest.raises(BoardUnreachable, match="its answer has 2 bytes, which is too many"):
        await client.ping()
