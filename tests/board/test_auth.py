"""Who may call what: every route with every role over mutual TLS, and what a cell may do to tasks of others."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.board.app import Board
from bulletin.board.auth import Auth, Forbidden, Peer, check_cell, check_own, check_role
from bulletin.board.settings import Address, BoardSettings
from bulletin.core.model import TaskState
from bulletin.seams import RandomIds, SystemClock
from bulletin.store.memory import MemoryStore
from bulletin.trust.authority import Purpose
from bulletin.trust.contexts import client_context
from bulletin.trust.directory import Order, create
from bulletin.trust.files import TlsFiles
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2, link_pb2
from bulletin.wire.routes import OWN_ROUTES, PHASE2_ROUTES, ROUTES, Role

PROTOBUF = "application/x-protobuf"

#: Who may call it: client, cell (k), operator. Not taken from the table of routes: that is what is tested.
TABLE = """
Ping                cko
Domains             cko
UpsertDomain        c.o
Tasks               cko
TaskByGuid          cko
Tasks_r2            cko
TaskByGuid_r2       cko
DesireTask          c.o
StartTask           .k.
CancelTask          c.o
FailTask            c.o
RejectTask          .ko
CompleteTask        .k.
ResolvingTask       c.o
DeleteTask          c.o
TaskEventStream     c.o
TaskEventStream_r0  c.o
Cells               cko
DesireTask_r0       c.o
Tasks_r0            cko
Tasks_r1            cko
TaskByGuid_r0       cko
TaskByGuid_r1       cko
Link                .k.
TaskOutput          c.o
TaskCallbacks       c.o
TaskEvents          c.o
OpenAPI             cko
Metrics             ..o
"""
MAY = dict(line.split() for line in TABLE.splitlines() if line)
EVERY_ROUTE = (*ROUTES, *PHASE2_ROUTES, *OWN_ROUTES)
LETTERS = {"client": "c", "cell": "k", "operator": "o"}

PEERS = {
    "nobody": [],
    "client": ["client"],
    "c1": ["cell"],
    "operator": ["operator"],
    "both": ["client", "cell"],
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Callable[[str], TlsFiles]:
    directory = tmp_path_factory.mktemp("auth") / "certs"
    orders = [Order("board", Purpose.BOARD, hosts=("127.0.0.1",)), Order("c2", Purpose.PEER, frozenset({Role.CELL}))]
    for name, roles in PEERS.items():
        if roles:
            orders.append(Order(name, Purpose.PEER, frozenset(map(Role, roles))))
    orders.append(Order("nobody", Purpose.BOARD, hosts=("nobody",)))  # a board's has no role
    create(directory, orders, dt.datetime.now(dt.UTC), days=2)
    return lambda name: TlsFiles(directory / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key")


class Caller:
    def __init__(self, url: str, session: aiohttp.ClientSession):
        self.url = url
        self.session = session

    async def call(self, path: str, message=None, kind=bbs_pb2.TaskLifecycleResponse):
        body = b"" if message is None else message.SerializeToString()
        async with self.session.post(self.url + path, data=body, headers={"Content-Type": PROTOBUF}) as answer:
            return answer.status, kind.FromString(await answer.read())

    async def status(self, method: str, path: str) -> tuple[int, str, bytes]:
        async with self.session.request(method, self.url + path.replace("{guid}", "g")) as answer:
            streams = answer.status == 200 and answer.content_type == "text/event-stream"
            return answer.status, answer.content_type, b"" if streams else await answer.read()


@pytest.fixture
async def board(certificates) -> AsyncIterator[Callable]:
    """A board that is served, and a way to call it as anybody."""
    stops: list[Callable] = []

    async def serve(**settings) -> Callable[[str], Caller]:
        options = {"listen": Address("127.0.0.1", 0), "tls": certificates("board"), "stop_grace_seconds": 0.1}
        clock = SystemClock()
        board = Board(BoardSettings(**options | settings), MemoryStore(clock=clock), clock, RandomIds())
        ready = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(board.run(ready))
        await asyncio.wait({ready, running}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        url = ready.result()
        sessions: list[aiohttp.ClientSession] = []

        async def stop() -> None:
            for session in sessions:
                await session.close()
            board.stop()
            await asyncio.wait_for(running, 10)

        def as_(name: str) -> Caller:
            context = client_context(certificates(name)) if url.startswith("https") else True
            sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)))
            return Caller(url, sessions[-1])

        stops.append(stop)
        return as_

    yield serve
    for stop in stops:
        await stop()


@pytest.fixture
async def linked(board):
    """A board with c1 on a link, which holds the pending task ``given``; and a way to call it."""
    as_ = await board()
    cell = as_("c1")
    async with linking(cell, "c1") as socket:
        definition = bbs_pb2.TaskDefinition(root_fs="docker:///busybox", memory_mb=1)
        definition.action.run_action.CopyFrom(bbs_pb2.RunAction(path="true", user="root"))
        desire = bbs_pb2.DesireTaskRequest(task_guid="given", domain="d", task_definition=definition)
        assert (await as_("client").call("/v1/tasks/desire.r2", desire))[0] == 200
        frame = wire_link.decode_frame((await socket.receive()).data)
        assert frame.assign.task.task_guid == "given"
        yield SimpleNamespace(as_=as_, socket=socket)


@asynccontextmanager
async def linking(caller: Caller, cell_id: str):
    async with caller.session.ws_connect(f"{caller.url}/v1/link") as socket:
        presence = bbs_pb2.CellPresence(cell_id=cell_id, rep_address="link")
        presence.capacity.CopyFrom(bbs_pb2.CellCapacity(memory_mb=10, disk_mb=10, containers=1))
        hello = link_pb2.Hello(presence=presence, arbitrary_rootfs=["docker"], incarnation=cell_id, protocol=1)
        await socket.send_bytes(wire_link.hello(hello))
        frame = wire_link.decode_frame((await socket.receive()).data)
        if frame.WhichOneof("body") == "refused":
            yield frame.refused.reason
        else:
            assert frame.WhichOneof("body") == "welcome"
            yield socket


# -- roles ----------------------------------------------------------------------------------------------------------


def test_the_table_is_of_every_route():
    assert {route.name for route in (*ROUTES, *OWN_ROUTES)} == set(MAY)
    assert all(route.roles == frozenset(Role) for route in PHASE2_ROUTES), "they only say that they are not supported"


@pytest.mark.parametrize("name", PEERS)
async def test_every_route_with_every_role(board, name):
    caller = (await board())(name)
    letters = {LETTERS[role] for role in PEERS[name]}
    for route in EVERY_ROUTE:
        status, kind, body = await caller.status(route.method, route.path)
        if letters & set(MAY.get(route.name, "cko")):
            assert status != 403, route.name
            continue
        assert status == 403, route.name
        if getattr(route, "has_error", False):
            assert kind == PROTOBUF
            error = route.response.FromString(body).error
            assert error.type == bbs_pb2.Error.InvalidRequest
            text = error.message
        else:
            assert kind == "text/plain"
            text = body.decode()
        assert f"{route.name} needs the role" in text
        assert "bulletin certs issue" in text


async def test_a_refusal_comes_in_json_to_who_speaks_it(board):
    caller = (await board())("c1")
    headers = {"Content-Type": "application/json"}
    async with caller.session.post(caller.url + "/v1/tasks/desire.r2", data=b"{}", headers=headers) as answer:
        assert (answer.status, answer.content_type) == (403, "application/json")
        assert "DesireTask needs the role" in (await answer.json())["error"]["message"]


async def test_a_refused_body_is_not_read(board):
    """The refusal comes while the body is still on its way."""
    caller = (await board())("c1")

    async def endless():
        yield b"x"
        await asyncio.get_running_loop().create_future()

    async with asyncio.timeout(10):
        async with caller.session.post(caller.url + "/v1/tasks/desire.r2", data=endless()) as answer:
            assert answer.status == 403


async def test_with_roles_off_any_certificate_may_do_anything(board):
    caller = (await board(roles="off"))("nobody")
    for route in EVERY_ROUTE:
        assert (await caller.status(route.method, route.path))[0] != 403
    async with linking(caller, "any-cell") as socket:
        assert not isinstance(socket, str)


async def test_on_plain_http_everybody_may_do_everything(board):
    caller = (await board(tls=None))("nobody")
    for route in EVERY_ROUTE:
        assert (await caller.status(route.method, route.path))[0] != 403


@given(st.frozensets(st.sampled_from(Role)), st.sampled_from(EVERY_ROUTE))
def test_a_role_of_the_route_is_what_it_takes(roles, route):
    peer = Peer("p", roles, None)
    if roles & route.roles:
        check_role(route, peer)
    else:
        with pytest.raises(Forbidden):
            check_role(route, peer)


# -- cells ----------------------------------------------------------------------------------------------------------


async def test_a_link_is_for_the_cell_of_its_certificate(board):
    as_ = await board()
    async with linking(as_("c1"), "c2") as refusal:
        assert "the certificate is of cell c1, not c2" in refusal
        assert "--id c1" in refusal
    async with linking(as_("c2"), "c2") as socket:
        assert not isinstance(socket, str)


@pytest.mark.parametrize("path", ["/v1/tasks/start", "/v1/tasks/complete"])
async def test_a_cell_starts_and_completes_under_its_own_name_only(linked, path):
    for cell_id, status in (("c2", 403), ("c1", 200), ("", 200)):
        message = bbs_pb2.CompleteTaskRequest(task_guid="given", cell_id=cell_id)
        assert (await linked.as_("c1").call(path, message))[0] == status


async def reject(caller: Caller) -> tuple[int, str]:
    message = bbs_pb2.RejectTaskRequest(task_guid="given", rejection_reason="no")
    status, answer = await caller.call("/v1/tasks/reject", message)
    return status, answer.error.message


async def test_a_pending_task_is_rejected_by_its_holder_or_an_operator(linked):
    status, text = await reject(linked.as_("c2"))
    assert (status, text) == (403, "task given was not given to cell c2, which therefore cannot reject it")
    assert await reject(linked.as_("operator")) == (200, "")


async def test_a_running_task_is_rejected_by_its_cell_only(linked):
    start = bbs_pb2.StartTaskRequest(task_guid="given", cell_id="c1")
    assert (await linked.as_("c1").call("/v1/tasks/start", start))[0] == 200
    for name in ("c2", "operator"):
        status, text = await reject(linked.as_(name))
        assert status == 403
        assert "is running on cell c1, and only that cell may reject it" in text
    assert await reject(linked.as_("c1")) == (200, "")


ANYBODY = Peer("", frozenset(Role), None)
C1, C2 = (Peer(name, frozenset({Role.CELL}), name) for name in ("c1", "c2"))
OPERATOR = Peer("o", frozenset({Role.OPERATOR}), None)
BOTH = Peer("c2", frozenset({Role.CELL, Role.OPERATOR}), "c2")

#: State, cell of the row, holder of the link; who may reject, of anybody, c1, c2, an operator, c2 as an operator.
REJECTIONS = """
running   c1 c1  .x...
running   c1 -   xx...
running   c3 -   x....
running   c3 c1  .....
pending   -  c1  xx.xx
pending   c1 -   x..xx
pending   -  -   x..xx
completed -  c1  xxxxx
resolving -  c1  xxxxx
-         -  -   xxxxx
"""


@pytest.mark.parametrize("row", [line for line in REJECTIONS.splitlines() if line])
def test_who_may_reject(row):
    state, cell_id, holder, expected = row.split()
    task = None if state == "-" else SimpleNamespace(state=TaskState[state.upper()], cell_id=cell_id.strip("-"))
    reign = SimpleNamespace(
        writer=SimpleNamespace(tasks={} if task is None else {"g": task}),
        cells=SimpleNamespace(holder=lambda _guid: None if holder == "-" else holder),
    )
    route = next(route for route in ROUTES if route.name == "RejectTask")
    allowed = ""
    for peer in (ANYBODY, C1, C2, OPERATOR, BOTH):
        try:
            check_own(route, peer, bbs_pb2.RejectTaskRequest(task_guid="g"), reign)
        except Forbidden:
            allowed += "."
        else:
            allowed += "x"
    assert allowed == expected


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r.handler not in {"start_task", "complete_task", "reject_task"}]
)
def test_other_calls_are_nobodys_own(route):
    assert Auth(BoardSettings()).guard(route) is None
    check_own(route, C1, None, None)


def test_a_cells_name_is_compared_whole():
    check_cell(C1, "c1")
    check_cell(ANYBODY, "whoever")
    for other in ("", "C1", "c1 ", "c11"):
        with pytest.raises(Forbidden):
            check_cell(C1, other)


# -- peers ----------------------------------------------------------------------------------------------------------


def request_of(certificate) -> SimpleNamespace:
    return SimpleNamespace(transport=SimpleNamespace(get_extra_info=lambda _name: certificate))


def subject(*pairs) -> dict:
    return {"subject": tuple((pair,) for pair in pairs)}


CN, OU = "commonName", "organizationalUnitName"


def test_a_peer_is_what_its_subject_says(certificates):
    auth = Auth(BoardSettings(tls=certificates("board")))
    one = auth.peer(request_of(subject((OU, "cell"), (OU, "operator"), (OU, "sales"), (CN, "c1"))))
    assert one == Peer("c1", frozenset({Role.CELL, Role.OPERATOR}), "c1")
    assert auth.peer(request_of(subject((OU, "client"), (CN, "c1")))) == Peer("c1", frozenset({Role.CLIENT}), None)
    assert auth.peer(request_of(subject((OU, "Cell"), (CN, "c1")))).roles == frozenset()
    assert auth.peer(request_of(subject())).roles == frozenset()


@pytest.mark.parametrize("transport", [None, SimpleNamespace(get_extra_info=lambda _name: None)])
def test_a_connection_without_a_certificate_may_nothing(certificates, transport):
    auth = Auth(BoardSettings(tls=certificates("board"), roles="off"))
    assert auth.peer(SimpleNamespace(transport=transport)).roles == frozenset()


def test_peers_are_remembered_within_a_bound(certificates, monkeypatch):
    monkeypatch.setattr("bulletin.board.auth._SUBJECTS_MAX", 3)
    auth = Auth(BoardSettings(tls=certificates("board")))
    first = auth.peer(request_of(subject((CN, "0"))))
    assert auth.peer(request_of(subject((CN, "0")))) is first
    for number in range(10):
        assert auth.peer(request_of(subject((CN, str(number))))).name == str(number)
        assert len(auth._peers) <= 3
