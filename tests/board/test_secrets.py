"""No secret in logs, metrics, the access log, error texts or clear text at rest (design promise S15).

Every text of a task definition, of an outcome and of a callback's URL holds a marker of its own; then a board lives
through everything that can happen to a task, with the log at its most talkative, and no marker is to be found.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from support.logs import captured_log
from support.served import Served, serve_board

from bulletin.board.settings import Address
from bulletin.seams import SystemClock
from bulletin.store.broken import Failure, fail_at
from bulletin.store.sealing import KeySealer
from bulletin.store.sqlite import SqliteStore
from bulletin.telemetry.tracing import HEADER
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2 as bbs
from bulletin.wire.proto import link_pb2

TRACE = "0af7651916cd43dd8448eb211c80319c"
PASSPHRASE = "Marker000PASSPHRASE"

#: Texts that have to be of a certain form, and then hold no marker of their own.
FORMED = {
    "SecurityGroupRule.protocol": "tcp",
    "SecurityGroupRule.destinations": "10.0.0.0/8",
    "VolumeMount.mode": "r",
    "DownloadAction.checksum_algorithm": "sha256",
    "CachedDependency.checksum_algorithm": "sha256",
}
#: One of several, or not allowed beside others.
LEFT_OUT = {
    "VolumeMount.dedicated",
    "SecurityGroupRule.port_range",
    "SecurityGroupRule.icmp_info",
    "RunAction.resource_limits",
    "TaskDefinition.image_layers",  # filled by hand
    "TaskDefinition.completion_callback_url",
    "MetricTagValue.dynamic",
}


class Markers:
    """Hands out texts nobody else writes, and finds them again."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {PASSPHRASE: "passphrase"}

    def new(self, name: str) -> str:
        marker = f"Marker{len(self.names):03}{name.rpartition('.')[2].replace('_', '')}"
        self.names[marker] = name
        return marker

    def found_in(self, text: str) -> dict[str, str]:
        return {marker: name for marker, name in self.names.items() if marker in text}


def fill(message: Message, markers: Markers) -> None:
    """Put a marker into every text of ``message`` and of what is in it."""
    for field in message.DESCRIPTOR.fields:
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if name in LEFT_OUT or (field.message_type and field.message_type.name == "Action"):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            fill_map(getattr(message, field.name), field, name, markers)
        elif field.message_type:
            inner = getattr(message, field.name)
            if field.is_repeated:
                fill(inner.add(), markers)
            else:
                inner.SetInParent()
                fill(inner, markers)
        elif field.type == FieldDescriptor.TYPE_STRING:
            text = FORMED.get(name) or markers.new(name)
            text = f"docker:///library/{text.lower()}" if name == "TaskDefinition.root_fs" else text
            if name == "TaskDefinition.root_fs":
                markers.names[text.rpartition("/")[2]] = name
            if field.is_repeated:
                getattr(message, field.name).append(text)
            else:
                setattr(message, field.name, text)
        elif name == "SecurityGroupRule.ports":
            message.ports.append(80)


def fill_map(entries, field: FieldDescriptor, name: str, markers: Markers) -> None:
    if field.message_type.fields_by_name["value"].message_type:
        fill(entries[markers.new(name)], markers)
    else:
        entries[markers.new(name)] = markers.new(name)


def make_definition(markers: Markers, callback: str = "") -> bbs.TaskDefinition:
    definition = bbs.TaskDefinition(memory_mb=1)
    fill(definition, markers)
    steps = definition.action.serial_action
    steps.log_source = markers.new("SerialAction.log_source")
    for kind in ("run", "download", "upload", "emit_progress", "try", "timeout", "parallel", "codependent"):
        action = steps.actions.add()
        made = getattr(action, f"{kind}_action")
        made.SetInParent()
        fill(made, markers)
        if "actions" in made.DESCRIPTOR.fields_by_name:
            fill(made.actions.add().run_action, markers)
        elif "action" in made.DESCRIPTOR.fields_by_name:
            fill(made.action.run_action, markers)
        if kind == "timeout":
            made.timeout_ms = 1000
    layer = definition.image_layers.add(layer_type=bbs.ImageLayer.SHARED, media_type=bbs.ImageLayer.TGZ)
    for name in ("name", "url", "destination_path"):
        setattr(layer, name, markers.new(f"ImageLayer.{name}"))
    if callback:
        user, password, path, token = (
            markers.new(f"callback.{part}") for part in ("user", "password", "path", "token")
        )
        host = callback.removeprefix("http://")
        definition.completion_callback_url = f"http://{user}:{password}@{host}/{path}?token={token}"
    return definition


@pytest.fixture
def logged():
    with captured_log() as stream:
        yield stream


@pytest.fixture
async def receiver():
    """A callback's receiver that says 503 first and then 200; its URL."""
    answers = [503]

    async def receive(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(status=answers.pop() if answers else 200)

    server = web.Server(receive)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()
    server.pre_shutdown()
    await server.shutdown(1)


class Witness:
    """A board, and every text it answers that is not the task itself."""

    def __init__(self, board: Served, markers: Markers) -> None:
        self.board = board
        self.markers = markers
        self.errors: list[str] = []

    async def desire(self, guid: str, callback: str = "", **fields: object) -> None:
        definition = make_definition(self.markers, callback)
        for name, value in fields.items():
            setattr(definition, name, value)
        await self.do("tasks/desire.r2", bbs.DesireTaskRequest(task_guid=guid, domain="d", task_definition=definition))

    async def do(self, path: str, message: Message, kind=bbs.TaskLifecycleResponse) -> None:
        answer = await self.board.call(path, message, kind, **{HEADER: TRACE})
        assert not answer.HasField("error"), answer.error

    async def fail(self, path: str, body: bytes, content_type: str = "application/x-protobuf") -> None:
        headers = {"Content-Type": content_type, HEADER: TRACE}
        async with self.board.session.post(f"{self.board.url}/v1/{path}", data=body, headers=headers) as response:
            text = await response.read()
            assert text
            self.errors.append(text.decode(errors="replace"))

    async def until(self, condition) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)


async def complete(witness: Witness, guid: str, *, failed: bool) -> None:
    await witness.do("tasks/start", bbs.StartTaskRequest(task_guid=guid, cell_id="c1"), bbs.StartTaskResponse)
    reason, result = witness.markers.new("failure_reason"), witness.markers.new("result")
    message = bbs.CompleteTaskRequest(
        task_guid=guid, cell_id="c1", failed=failed, failure_reason=reason if failed else "", result=result
    )
    await witness.do("tasks/complete", message)


async def live_on_a_link(witness: Witness) -> None:
    """A cell that rejects a task and completes another, and then goes away with a third."""
    board, markers = witness.board, witness.markers
    hello = link_pb2.Hello(
        presence=bbs.CellPresence(
            cell_id="c1",
            rep_address="http://127.0.0.1",
            zone="z",
            capacity=bbs.CellCapacity(memory_mb=100, disk_mb=100, containers=10),
            rootfs_providers=[bbs.Provider(name="docker")],
        ),
        arbitrary_rootfs=["docker"],
        incarnation="1",
        protocol=wire_link.PROTOCOL,
    )
    async with board.session.ws_connect(board.url + "/v1/link") as socket:
        await socket.send_bytes(link_pb2.Frame(hello=hello).SerializeToString())
        assert link_pb2.Frame.FromString(await socket.receive_bytes()).WhichOneof("body") == "welcome"
        for guid in ("linked-1", "linked-2"):
            action = bbs.Action(run_action=bbs.RunAction(path=markers.new("path"), user="root"))
            definition = bbs.TaskDefinition(root_fs="docker:///x", action=action, image_username="", annotation="")
            await witness.do(
                "tasks/desire.r2", bbs.DesireTaskRequest(task_guid=guid, domain="d", task_definition=definition)
            )
            assert link_pb2.Frame.FromString(await socket.receive_bytes()).WhichOneof("body") == "assign"
        reason = markers.new("rejection_reason")
        rejected = link_pb2.Frame(rejected=link_pb2.Rejected(task_guid="linked-1", reason=reason))
        await socket.send_bytes(rejected.SerializeToString())
        await witness.until(lambda: board.reign.writer.tasks["linked-1"].rejection_count)
        await socket.send_bytes(b"\x0a\xff" + markers.new("garbage").encode())
    await witness.until(lambda: not board.reign.cells.connected_count)


async def live(witness: Witness, receiver: str) -> None:
    board, markers = witness.board, witness.markers
    streams = [
        await board.session.post(board.url + "/v1/events/tasks.r1"),
        await board.session.get(board.url + "/v1/task_events"),
    ]
    await witness.desire("told", receiver)
    await complete(witness, "told", failed=False)
    await witness.desire("unheard", "http://127.0.0.1:1")
    await complete(witness, "unheard", failed=True)
    for guid in ("rejected", "cancelled", "failed", "pending"):
        await witness.desire(guid)
    reason = markers.new("rejection_reason")
    await witness.do("tasks/reject", bbs.RejectTaskRequest(task_guid="rejected", rejection_reason=reason))
    await witness.do("tasks/cancel", bbs.TaskGuidRequest(task_guid="cancelled"))
    await witness.do("tasks/fail", bbs.FailTaskRequest(task_guid="failed", failure_reason=markers.new("reason")))
    await live_on_a_link(witness)
    await witness.until(lambda: board.reign.writer.tasks["told"].delivered_at)
    await witness.until(lambda: board.reign.writer.tasks["unheard"].attempts)
    async with board.session.get(board.url + "/v1/tasks/unheard/callbacks") as response:
        witness.errors.append(await response.text())
    await board.reign.converger.converge()
    await refuse(witness)
    for stream in streams:
        stream.close()
    await lose_the_store(witness)


async def refuse(witness: Witness) -> None:
    """Everything wrong with a request that still holds secrets."""
    markers = witness.markers
    definition = make_definition(markers)
    desire = bbs.DesireTaskRequest(task_guid="pending", domain="d", task_definition=definition)
    await witness.fail("tasks/desire.r2", desire.SerializeToString())  # taken
    await witness.fail("tasks/desire.r2", desire.SerializeToString()[:-3])
    text = json_format.MessageToJson(desire, preserving_proto_field_name=True)
    await witness.fail("tasks/desire.r2", text.encode(), "application/json")
    await witness.fail("tasks/desire.r2", text[:-3].encode(), "application/json")
    await witness.fail("tasks/desire.r2", json.dumps({markers.new("field"): 1}).encode(), "application/json")
    desire.task_guid = "other"
    for name in ("annotation", "result_file"):
        broken = bbs.DesireTaskRequest()
        broken.CopyFrom(desire)
        setattr(broken.task_definition, name, markers.new(name) * 1000)
        with suppress(AssertionError):
            await witness.fail("tasks/desire.r2", broken.SerializeToString())
        broken.task_definition.root_fs = markers.new("root_fs")
        broken.task_definition.action.serial_action.actions[0].run_action.path = ""
        broken.task_definition.egress_rules[0].destinations[:] = [markers.new("destinations")]
        broken.task_definition.egress_rules[0].protocol = markers.new("protocol")
        broken.task_definition.volume_mounts[0].mode = markers.new("mode")
        broken.task_definition.image_layers[0].destination_path = ""
        await witness.fail("tasks/desire.r2", broken.SerializeToString())
    result = markers.new("result")
    wrong = bbs.CompleteTaskRequest(task_guid="pending", cell_id="c1", result=result, failure_reason=result)
    await witness.fail("tasks/complete", wrong.SerializeToString())


async def lose_the_store(witness: Witness) -> None:
    """A commit fails, the reign is lost, and everything is loaded again."""
    board = witness.board
    lost = board.reign
    board.store.fail = fail_at("commit", board.store.calls["commit"] + 1, Failure.BEFORE)
    definition = make_definition(witness.markers)
    desire = bbs.DesireTaskRequest(task_guid="lost", domain="d", task_definition=definition)
    await witness.fail("tasks/desire.r2", desire.SerializeToString())
    await witness.until(lambda: board.board._http.reign not in {None, lost})


async def shown(board: Served, port: int) -> str:
    async with board.session.get(f"http://127.0.0.1:{port}/metrics") as response:
        return await response.text()


async def test_secrets_are_nowhere_but_with_the_task(tmp_path, logged, capfd, receiver, unused_port):
    markers = Markers()
    path, access_log, port = tmp_path / "board.sqlite3", tmp_path / "access.log", unused_port()
    keys = {"k1": PASSPHRASE}

    def open_store() -> SqliteStore:
        return SqliteStore(path, sealer=KeySealer(keys, "k1"), clock=SystemClock())

    settings = {
        "access_log": access_log,
        "metrics": Address("127.0.0.1", port),
        "encryption_keys": keys,
        "active_key_label": "k1",
    }
    async with serve_board(open_store(), **settings) as board:
        witness = Witness(board, markers)
        await live(witness, receiver)
        metrics = await shown(board, port)
    break_a_row(path)
    async with serve_board(open_store(), **settings) as board:
        witness.board = board
        await witness.fail("tasks/get_by_task_guid.r3", bbs.TaskByGuidRequest(task_guid="failed").SerializeToString())
        metrics += await shown(board, port)

    assert len(markers.names) > 300, "the markers were not made"
    log = logged.getvalue()
    assert {"callback.failed", "callback.again", "link.nonsense", "reign.lost", "row.broken", "request.failed"} <= {
        json.loads(line)["message"] for line in log.splitlines()
    }, "the life was not as troubled as it should be"
    # Every call carried the trace, and what a board does for nobody in particular carries none.
    traced = {line["message"]: "trace_id" in line for line in map(json.loads, log.splitlines())}
    assert traced["request.failed"]
    assert not traced["callback.failed"]
    assert not traced["converged"]
    assert 'cell_id="c1"' in metrics
    assert len(access_log.read_text().splitlines()) > 60
    assert len(witness.errors) >= 12
    captured = capfd.readouterr()
    places = {
        "log": log,
        "metrics": metrics,
        "access log": access_log.read_text(),
        "errors": "\n".join(witness.errors),
        "output": captured.out + captured.err,
    }
    assert {place: markers.found_in(text) for place, text in places.items()} == {place: {} for place in places}
    outcomes = {"failure_reason", "rejection_reason", "result", "reason"}
    at_rest = markers.found_in("".join(file.read_bytes().decode("latin-1") for file in path.parent.glob("board.*")))
    assert set(at_rest.values()) <= outcomes, "a definition is in clear text at rest"
    assert at_rest, "outcomes are in clear text, as in Diego; were they not, this would look at the wrong file"


def break_a_row(path: Path) -> None:
    database = sqlite3.connect(path)
    with database:
        assert database.execute("UPDATE tasks SET definition = X'00' WHERE guid = 'failed'").rowcount == 1
    database.close()


def test_settings_show_no_secret():
    from bulletin.board.settings import BoardSettings

    markers = Markers()
    shown = repr(BoardSettings(database=f"postgresql://u:{PASSPHRASE}@db/x", encryption_keys={"k": PASSPHRASE}))
    assert markers.found_in(shown) == {}


async def test_a_request_s_lines_carry_its_trace_and_no_other_s(logged, tmp_path):
    async with serve_board() as board:
        await board.desire("g1")
        board.store.fail = fail_at("commit", board.store.calls["commit"] + 1, Failure.BEFORE)
        answer = await board.call("tasks/cancel", bbs.TaskGuidRequest(task_guid="g1"), **{HEADER: TRACE})
        assert answer.error.type == bbs.Error.UnknownError
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    traced = [line["message"] for line in lines if line.get("trace_id") == TRACE]
    assert traced == ["request.failed"]
    assert "reign.lost" in {line["message"] for line in lines}, "what is done for all requests has no trace"
