"""The surprises of board-api.md section 15 that concern tasks, by their numbers: over HTTP, in bytes where they matter.

Where design section 6 differs on purpose, the test asserts what we do instead and says so.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trustme
from support.boards import ThreadBoard
from support.model import OK, Answer, Call, ModelTask
from support.sink import CUT, Reply, Sink
from support.voices import Feed, RawVoice

from bulletin.board.settings import Address
from bulletin.store.api import BrokenRow
from bulletin.wire.proto import bbs_pb2 as bbs
from bulletin.wire.routes import ROUTES

RUN = bbs.Action(run_action=bbs.RunAction(path="sh", user="root"))
NOT_FOUND = Answer("ResourceNotFound", "the requested resource could not be found")
WAIT_SECONDS = 20.0
SECOND = 1_000_000_000


def definition(**fields: Any) -> bytes:
    return bbs.TaskDefinition(**{"root_fs": "docker:///busybox", "action": RUN, **fields}).SerializeToString()


def desire(guid: str = "g", **fields: Any) -> Call:
    return Call("desire", guid, domain="d", definition=definition(**fields))


def cannot(before: str, after: str) -> Answer:
    return Answer("InvalidStateTransition", f"Cannot transition from {before} to {after}")


def invalid(*names: str) -> Answer:
    return Answer("InvalidRequest", ", ".join(f"Invalid field: {name}" for name in names))


class Desk:
    """A board over memory with a told clock, and somebody who talks to it."""

    def __init__(self, **settings: Any) -> None:
        self.board = ThreadBoard(**settings)
        self.url = self.board.start()
        self.voice = RawVoice(self.url)

    def do(self, *calls: Call) -> Answer:
        """Call one after another; the last answer. Those before must be good."""
        for call in calls[:-1]:
            assert not self.voice.call(call).type
        return self.voice.call(calls[-1])

    def task(self, guid: str = "g") -> ModelTask:
        seen = self.voice.get(guid)
        assert isinstance(seen, ModelTask), seen
        return seen

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "it does not come to that"
            time.sleep(0.005)

    def until_gone(self, guid: str = "g") -> None:
        self.until(lambda: self.voice.get(guid) == NOT_FOUND)

    def until_left(self, guid: str = "g") -> None:
        """Until the board has given up telling the task's callback for now."""
        self.until(lambda: self.task(guid).state == "Resolving" and not self.board.is_telling(guid))

    def converge(self, after_seconds: float = 0) -> None:
        self.board.clock.advance(after_seconds)
        self.board.converge()

    def raw(self, request: bytes, *, until: bytes = b"") -> bytes:
        """Send bytes; what comes back up to its end, or until ``until`` has come."""
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
            connection.sendall(request)
            answer = b""
            while not (until and until in answer) and (more := connection.recv(65536)):
                answer += more
        return answer

    def post(self, path: str, body: bytes = b"", headers: str = "") -> tuple[bytes, bytes]:
        """The head and the body of an answer, byte for byte."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        answer = self.raw(head.encode() + body)
        head_bytes, _, content = answer.partition(b"\r\n\r\n")
        return head_bytes, content

    def stop(self) -> None:
        """Stop the board; ``self.board.start()`` starts one over the same contents."""
        self.voice.close()
        self.board.stop()


@pytest.fixture
def desks() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(**settings: Any) -> Desk:
        made.append(Desk(**settings))
        return made[-1]

    yield make
    for desk in made:
        desk.stop()


@pytest.fixture
def desk(desks: Callable[..., Desk]) -> Desk:
    return desks()


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as made:
        yield made


def test_surprise_01_domain_errors_are_200_and_only_the_error_field_tells(desk: Desk) -> None:
    head, body = desk.post("/v1/tasks/get_by_task_guid.r3", b"\x0a\x01g")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    text = b"the requested resource could not be found"
    assert body == b"\x0a" + bytes([4 + len(text)]) + b"\x08\x0d\x12" + bytes([len(text)]) + text
    # An empty Error would be one too, so success never has any.
    assert desk.post("/v1/tasks/list.r3")[1] == b""


def test_surprise_02_every_200_has_the_protobuf_content_type(desk: Desk) -> None:
    for route in ROUTES:
        if not route.stream:
            head, _ = desk.post(route.path)
            assert head.startswith(b"HTTP/1.1 200 OK\r\n"), route.path
            assert b"Content-Type: application/x-protobuf\r\n" in head, route.path


def test_surprise_03_success_is_no_bytes_with_its_length_and_type(desk: Desk) -> None:
    body = bbs.DesireTaskRequest.FromString(b"\x12\x01g\x1a\x01d")
    body.task_definition.ParseFromString(definition())
    head, content = desk.post("/v1/tasks/desire.r2", body.SerializeToString())
    assert content == b""
    assert b"\r\nContent-Length: 0" in head
    assert b"\r\nContent-Type: application/x-protobuf" in head
    assert b"\r\nDate: " in head


def test_surprise_04_a_repeated_desire_is_refused_and_changes_nothing(desk: Desk) -> None:
    desk.do(desire())
    before = desk.task()
    assert desk.do(desire(annotation="other")) == Answer("ResourceExists", "the requested resource already exists")
    assert desk.task() == before


def test_surprise_05_complete_is_not_idempotent_and_start_is(desk: Desk) -> None:
    start = Call("start", "g", cell_id="c")
    with Feed(desk.url) as feed:
        assert desk.do(desire(), start) == Answer(should_start=True)
        assert desk.do(start) == Answer(should_start=False)
        complete = Call("complete", "g", cell_id="c")
        assert desk.do(complete) == OK
        assert desk.do(complete) == cannot("Completed", "Completed")
        desk.do(desire("last"))
        names = [(event.task.guid, event.task.state) for event in feed.take(4)]
    assert names == [("g", "Pending"), ("g", "Running"), ("g", "Completed"), ("last", "Pending")]


def test_surprise_06_who_clears_cell_id_and_who_keeps_it(desk: Desk) -> None:
    for guid in ("completed", "failed", "cancelled", "rejected", "gone"):
        desk.do(desire(guid), Call("start", guid, cell_id="c"))
    desk.do(Call("complete", "completed", cell_id="c"))
    desk.do(Call("fail", "failed", reason="r"))
    desk.do(Call("cancel", "cancelled"))
    desk.do(Call("reject", "rejected", reason="r"))
    desk.converge()
    kept = {task.guid: task.state for task in desk.voice.list(cell_id="c")}
    assert kept == {"rejected": "Pending", "gone": "Completed"}
    assert desk.do(Call("cancel", "rejected")) == OK
    assert desk.task("rejected").cell_id == ""


def test_surprise_07_texts_that_name_the_wrong_thing(desk: Desk) -> None:
    assert desk.do(Call("reject", "g")) == invalid("failure_reason")
    assert desk.do(desire(), Call("delete", "g")) == cannot("Pending", "Resolving")


def test_surprise_08_four_calls_do_not_look_at_the_guids_pattern(desk: Desk) -> None:
    for name in ("cancel", "resolving", "delete"):
        assert desk.do(Call(name, "a b")) == NOT_FOUND
        assert desk.do(Call(name, "")) == invalid("task_guid")
    assert desk.voice.get("a b") == NOT_FOUND
    assert desk.voice.get("") == invalid("task_guid")


@pytest.mark.parametrize("retries", [0, 3])
def test_surprise_09_one_more_rejection_than_retries(desks: Callable[..., Desk], retries: int) -> None:
    desk = desks(max_task_retries=retries)
    desk.do(desire())
    for _ in range(retries):
        assert desk.do(Call("reject", "g", reason="no")) == OK
        assert desk.task().state == "Pending"
    assert desk.do(Call("reject", "g", reason="enough")) == OK
    task = desk.task()
    assert (task.state, task.rejection_count, task.failure_reason) == ("Completed", retries + 1, "enough")


def test_surprise_10_pending_tasks_are_tried_at_every_sweep_whatever_the_kick(desk: Desk) -> None:
    """With room they would be placed at once (design section 6); with no cell each sweep uses up a try, as in Diego."""
    desk.do(desire(), Call("reject", "g", reason="no"))
    assert desk.task().rejection_count == 1
    desk.converge()
    desk.converge()
    task = desk.task()
    assert (task.rejection_count, task.rejection_reason) == (3, "unable to communicate to compatible cells")


@pytest.mark.parametrize("status", [200, 400, 404, 500, 502])
def test_surprise_11_what_counts_as_told(desks: Callable[..., Desk], sink: Sink, status: int) -> None:
    """Deleted: once ``resolved_retention`` is over (design section 6)."""
    desk = desks(resolved_retention_seconds=0.0)
    desk.do(desire(completion_callback_url=sink.url("g")), Call("cancel", "g"))
    sink.wait_for("g", 1).answer(Reply(status))
    desk.until_gone()


@pytest.mark.parametrize("status", [503, 504])
def test_surprise_11_what_is_tried_three_times(desk: Desk, sink: Sink, status: int) -> None:
    desk.do(desire(completion_callback_url=sink.url("g")), Call("cancel", "g"))
    for attempt in (1, 2, 3):
        sink.wait_for("g", attempt).answer(Reply(status))
    desk.until_left()
    assert len(sink.of("g")) == 3


def test_surprise_11_silence_is_tried_three_times(desks: Callable[..., Desk], sink: Sink) -> None:
    desk = desks(callback_timeout_seconds=0.1)
    desk.do(desire(completion_callback_url=sink.url("g")), Call("cancel", "g"))
    sink.wait_for("g", 3)
    desk.until_left()
    assert len(sink.of("g")) == 3


def test_surprise_11_what_is_not_tried_again(desk: Desk, sink: Sink, unused_port: Callable[[], int]) -> None:
    desk.do(desire("refused", completion_callback_url=f"http://127.0.0.1:{unused_port()}/"), Call("cancel", "refused"))
    desk.do(desire("g", completion_callback_url=sink.url("g")), Call("cancel", "g"))
    sink.wait_for("g", 1).answer(CUT)
    desk.until_left("refused")
    desk.until_left("g")
    assert len(sink.of("g")) == 1


@pytest.mark.parametrize(("status", "method"), [(301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
def test_surprise_12_redirects(desks: Callable[..., Desk], sink: Sink, status: int, method: str) -> None:
    desk = desks(resolved_retention_seconds=0.0)
    desk.do(desire(completion_callback_url=sink.url("g")), Call("cancel", "g"))
    sink.wait_for("g", 1).answer(Reply(status, "/elsewhere/g"))
    second = sink.wait_for("g", 2)
    assert (second.method, second.path) == (method, "/elsewhere/g")
    assert bool(second.body) == (method == "POST")
    second.answer(Reply(200))
    desk.until_gone()


def test_surprise_13_https_callbacks_trust_no_authority_but_the_boards(desk: Desk) -> None:
    """A board over plain HTTP has none; what it presents to whom it trusts is tests/system/test_mutual_tls.py's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_SECONDS)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/cb"
        desk.do(desire(completion_callback_url=url), Call("cancel", "g"))
        connection, _ = listener.accept()
        with pytest.raises(ssl.SSLError), context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1)
        desk.until_left()


def test_surprise_14_convergence_fails_a_task_and_its_callback_waits_for_the_kick(desk: Desk, sink: Sink) -> None:
    desk.do(desire(completion_callback_url=sink.url("g")), Call("start", "g", cell_id="gone"))
    desk.converge()
    assert desk.task().state == "Completed"
    desk.converge(30)
    assert desk.task().state == "Completed"
    desk.converge(1)
    sink.wait_for("g", 1)
    assert desk.task().state == "Resolving"


def test_surprise_15_nobody_came_for_a_completed_task(desk: Desk) -> None:
    with Feed(desk.url) as feed:
        desk.do(desire(), Call("fail", "g", reason="r"))
        desk.converge(120)
        assert desk.task().state == "Completed"
        desk.converge(1)
        assert desk.voice.get("g") == NOT_FOUND
        assert feed.take(3)[2].name == "task_removed"


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:1/refused"])
def test_surprise_15_a_resolver_that_never_finished(desk: Desk, url: str) -> None:
    """Demoted and removed in one run; by a client that resolves, and by a callback that reaches nobody."""
    with Feed(desk.url) as feed:
        desk.do(desire(completion_callback_url=url), Call("fail", "g", reason="r"))
        if url:
            desk.until_left()
        else:
            desk.do(Call("resolving", "g"))
        desk.converge(121)
        assert desk.voice.get("g") == NOT_FOUND
        assert [event.name for event in feed.take(5)][3:] == ["task_changed", "task_removed"]


def test_surprise_16_demotion_leaves_updated_at_alone_so_the_same_run_kicks(desk: Desk, sink: Sink) -> None:
    desk.do(desire(completion_callback_url=sink.url("g")), Call("cancel", "g"))
    sink.wait_for("g", 1).answer(CUT)
    desk.until_left()
    before = desk.task()
    with Feed(desk.url) as feed:
        desk.converge(31)
        sink.wait_for("g", 2)
        demoted, resolving = feed.take(2)
    assert (demoted.task.state, demoted.task.updated_at) == ("Completed", before.updated_at)
    assert (resolving.task.state, resolving.task.updated_at) == ("Resolving", before.updated_at + 31 * SECOND)
    assert resolving.task.first_completed_at == before.first_completed_at


def test_surprise_17_what_ages_are_counted_from(desks: Callable[..., Desk]) -> None:
    desk = desks(max_task_retries=100)
    desk.do(desire("pending"))
    desk.board.clock.advance(1799)
    desk.do(Call("reject", "pending", reason="no"))
    desk.converge(1)
    assert desk.task("pending").state == "Pending"
    desk.converge(1)
    assert desk.task("pending").failure_reason == "not started within time limit"
    completed_at = desk.task("pending").first_completed_at
    desk.board.clock.advance(100)
    desk.do(Call("resolving", "pending"))
    assert desk.task("pending").first_completed_at == completed_at
    desk.converge(20)
    assert desk.voice.get("pending") != NOT_FOUND
    desk.converge(11)
    assert desk.voice.get("pending") == NOT_FOUND


def test_surprise_18_no_cell_at_all_fails_every_running_task(desk: Desk) -> None:
    for guid in ("a", "b"):
        desk.do(desire(guid), Call("start", guid, cell_id=f"cell-{guid}"))
    desk.converge()
    for task in desk.voice.list():
        assert (task.state, task.failed) == ("Completed", True)
        assert task.failure_reason == "cell disappeared before completion"
        assert task.cell_id == f"cell-{task.guid}"


@pytest.mark.parametrize("failed", [False, True])
def test_surprise_19_reason_and_result_are_stored_as_sent(desk: Desk, failed: bool) -> None:
    complete = Call("complete", "g", cell_id="c", failed=failed, reason="a reason", result="a result")
    assert desk.do(desire(), Call("start", "g", cell_id="c"), complete) == OK
    task = desk.task()
    assert (task.failed, task.failure_reason, task.result) == (failed, "a reason", "a result")


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("x" * 1023, "x" * 1023),
        ("x" * 1024, "x" * 1013 + "(truncated)"),
        ("x" * 5000, "x" * 1013 + "(truncated)"),
        # On a character boundary, where the reference makes invalid UTF-8 (section 6).
        ("x" * 1012 + "\u00e9" * 10, "x" * 1012 + "(truncated)"),
        ("\U0001f600" * 256, "\U0001f600" * 253 + "(truncated)"),
    ],
    ids=["1023", "1024", "5000", "two bytes", "four bytes"],
)
def test_surprise_20_reasons_are_cut(desk: Desk, reason: str, kept: str) -> None:
    desk.do(desire(), Call("reject", "g", reason=reason))
    assert desk.task().rejection_reason == kept
    desk.do(Call("fail", "g", reason=reason))
    assert desk.task().failure_reason == kept


@pytest.mark.parametrize("guid", ["g\n", "\u0661", "\u00e9", "\uff41", "g\r", "g\0"])
def test_surprise_21_guids_are_matched_whole_and_in_ascii(desk: Desk, guid: str) -> None:
    for call in (desire(guid), Call("start", guid, cell_id="c"), Call("fail", guid, reason="r")):
        assert desk.do(call) == invalid("task_guid")


def test_surprise_22_texts_of_nested_problems(desk: Desk) -> None:
    def refused(**fields: Any) -> str:
        return desk.do(desire(**fields)).text

    assert refused(action=None) == "invalid action type"
    run = bbs.Action(run_action=bbs.RunAction())
    assert refused(action=run) == "Invalid field: action, Invalid field: path, Invalid field: user"
    rules = [bbs.SecurityGroupRule(protocol="x"), bbs.SecurityGroupRule(protocol="tcp", ports=[0])]
    assert refused(egress_rules=rules) == "Invalid field: egress_rules, Invalid field: egress_rules"


def test_surprise_23_bytes_and_characters(desk: Desk) -> None:
    assert desk.do(desire("a", annotation="\u00e9" * 5120)) == OK
    assert desk.do(desire("b", annotation="\u00e9" * 5121)) == invalid("annotation")
    bad = Answer("InvalidRequest", "the request received is invalid")
    long = {"guid": "x" * 256, "domain": "\u00e9" * 256, "cell_id": "\u00e9" * 256}
    just = {"guid": "x" * 255, "domain": "\u00e9" * 255, "cell_id": "\u00e9" * 255}
    assert desk.do(replace(desire(), guid=long["guid"])) == bad
    assert desk.do(replace(desire(), domain=long["domain"])) == bad
    assert desk.do(replace(desire(just["guid"]), domain=just["domain"])) == OK
    assert desk.do(Call("start", just["guid"], cell_id=long["cell_id"])) == bad
    assert desk.do(Call("start", just["guid"], cell_id=just["cell_id"])) == Answer(should_start=True)
    assert desk.do(Call("complete", just["guid"], cell_id=just["cell_id"])) == OK


def test_surprise_24_a_ttl_of_0_is_for_ever(desk: Desk) -> None:
    assert desk.voice.upsert_domain("for ever", 0) == OK
    assert desk.voice.upsert_domain("a minute", 60) == OK
    assert set(desk.voice.domains()) == {"for ever", "a minute"}
    desk.board.clock.advance(100 * 365 * 86_400)
    assert desk.voice.domains() == ["for ever"]


def test_surprise_25_event_ids_begin_at_0_and_nothing_is_replayed(desk: Desk) -> None:
    """Unlike the reference we send heartbeats, as comments; an end of ours is an orderly one."""
    with Feed(desk.url) as first:
        desk.do(desire("a"))
        first.take(1)
        stream = b"POST /v1/events/tasks.r1 HTTP/1.1\r\nHost: x\r\nLast-Event-Id: 0\r\nContent-Length: 0\r\n\r\n"
        host, _, port = desk.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
            connection.sendall(stream)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)
            desk.do(desire("b"))
            while b"\ndata: " not in answer or not answer.endswith(b"\n\n\r\n"):
                answer += connection.recv(65536)
        assert answer.count(b"id: ") == 1
        assert b"id: 0\nevent: task_created\n" in answer
        desk.board.stop()
        first.wait_for_end()
        assert first.is_orderly
        assert [event.task.guid for event in first.events] == ["a", "b"]


def test_surprise_26_a_subscriber_that_does_not_read_gets_what_is_buffered_and_an_orderly_end(desk: Desk) -> None:
    host, _, port = desk.url.removeprefix("http://").rpartition(":")
    count = 3000
    with socket.socket() as slow, Feed(desk.url) as quick:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(WAIT_SECONDS)
        slow.connect((host, int(port)))
        slow.sendall(b"POST /v1/events/tasks.r1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        answer = slow.recv(512)  # the head: it is subscribed
        big = desire(annotation="x" * 10_000)
        for number in range(count):
            assert desk.do(replace(big, guid=f"g{number}")) == OK
        assert len(quick.take(count)) == count  # others notice nothing
        parts = [answer]
        while more := slow.recv(1 << 20):
            parts.append(more)
            if more.endswith(b"\r\n0\r\n\r\n"):
                break
    answer = b"".join(parts)
    assert answer.endswith(b"\r\n0\r\n\r\n")
    seen = answer.count(b"\nevent: task_created\n")
    assert 1024 <= seen < count


def test_surprise_27_the_task_stream_ignores_its_body_and_knows_no_cells(desk: Desk) -> None:
    host, _, port = desk.url.removeprefix("http://").rpartition(":")
    for body in (b"\xff\xff garbage", bbs.EventsByCellId(cell_id="c1").SerializeToString()):
        guid = f"g{len(body)}"
        head = b"POST /v1/events/tasks.r1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
            connection.sendall(head + body)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            desk.do(desire(guid), Call("start", guid, cell_id="c2"))
            while answer.count(b"\nevent: task_") < 2:
                answer += connection.recv(65536)


def test_surprise_28_streams_that_will_never_be_say_so_once(desk: Desk) -> None:
    """500, 502, 503 and 504 would make the Go client come back for ever."""
    host = desk.url.removeprefix("http://")
    for method, path, statuses in [
        ("GET", "/v1/events", {501}),
        ("GET", "/v1/events.r1", {501}),
        ("POST", "/v1/events/lrp_instances", {501}),
        ("POST", "/v1/events/lrp_instances.r1", {501}),
        ("GET", "/v1/events/tasks.r1", {405}),
        ("POST", "/v1/events/nothing", {404}),
    ]:
        connection = http.client.HTTPConnection(host, timeout=WAIT_SECONDS)
        connection.request(method, path)
        assert connection.getresponse().status in statuses, path
        connection.close()


def test_surprise_29_json_as_go_writes_it_in_callbacks_and_our_own_on_the_api(desk: Desk, sink: Sink) -> None:
    """The reference has JSON in callbacks only; on the API it is ours: the fields' own names, and enums by name."""
    desk.do(desire("plain", completion_callback_url=sink.url("plain")), Call("fail", "plain", reason="<&>\u2028"))
    body = sink.wait_for("plain", 1).body
    created_at = desk.task("plain").created_at
    assert body == (
        b'{"task_guid":"plain","failed":true,"failure_reason":"\\u003c\\u0026\\u003e\\u2028","result":"",'
        b'"created_at":%d}' % created_at
    )
    desk.do(desire("noted", completion_callback_url=sink.url("noted"), annotation="note"), Call("cancel", "noted"))
    assert sink.wait_for("noted", 1).json["annotation"] == "note"
    request = urllib.request.Request(
        desk.url + "/v1/tasks/get_by_task_guid.r3",
        data=b'{"task_guid":"plain"}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as response:
        task = json.load(response)["task"]
    assert task["state"] == "Resolving"
    assert task["task_definition"]["root_fs"] == "docker:///busybox"


@pytest.mark.parametrize("ports", [b"\x18\x01\x18\x02", b"\x1a\x02\x01\x02"], ids=["unpacked", "packed"])
def test_surprise_30_ports_come_back_unpacked_and_a_limit_of_0_is_not_none(desk: Desk, ports: bytes) -> None:
    rule = b"\x0a\x03tcp\x12\x091.2.3.4/8" + ports
    limits = b"\x2a\x02\x08\x00"
    run = b"\x0a\x02sh" + limits + b"\x32\x04root"
    action = b"\x1a" + bytes([len(run)]) + run
    stored = (
        b"\x0a\x01x:"[:1] + b"\x02x:" + b"\x1a" + bytes([len(action)]) + action + b"\x72" + bytes([len(rule)]) + rule
    )
    request = b"\x0a" + bytes([len(stored)]) + stored + b"\x12\x01g\x1a\x01d"
    assert desk.post("/v1/tasks/desire.r2", request)[1] == b""
    _, answer = desk.post("/v1/tasks/get_by_task_guid.r3", b"\x0a\x01g")
    assert b"\x0a\x03tcp\x12\x091.2.3.4/8\x18\x01\x18\x02" in answer
    assert limits in answer
    none = desire("none")
    desk.do(none)
    assert b"\x2a" not in desk.task("none").definition


def test_surprise_31_desire_and_cancel_wait_for_nobody(desk: Desk) -> None:
    """There is no auctioneer, and a cell is told behind the answer: none being there is no error of either call."""
    assert desk.do(desire(), Call("start", "g", cell_id="nowhere"), Call("cancel", "g")) == OK


@pytest.mark.parametrize("trace_id", ["", "zz", "3c7f8c1e-6d1b-4b5e-9d3d-7a3f3a1b2c4d", "x" * 5000])
def test_surprise_32_a_trace_id_is_never_refused_and_never_echoed(desk: Desk, trace_id: str) -> None:
    head, body = desk.post("/v1/ping", headers=f"X-Vcap-Request-Id: {trace_id}\r\n")
    assert body == b"\x08\x01"
    assert b"vcap" not in head.lower()
    assert not trace_id or trace_id.encode() not in head


def test_surprise_33_the_health_port_answers_200_to_everything(
    desks: Callable[..., Desk], unused_port: Callable[[], int]
) -> None:
    """That a standby's does too, and that its API port is closed, is tests/system/test_failover.py's."""
    port = unused_port()
    desks(health=Address("127.0.0.1", port))
    for method in ("GET", "POST", "DELETE"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
        connection.request(method, "/whatever")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"")
        connection.close()


def test_surprise_34_one_bad_row_stops_nothing_else(desks: Callable[..., Desk]) -> None:
    """The reference's listing fails as a whole; ours goes on without the row (promise S13). Convergence removes it."""
    desk = desks()
    desk.do(desire("good"))
    desk.stop()
    desk.board.contents.broken["bad"] = BrokenRow("bad", "for the test")
    desk.board.start()
    deserialize = Answer("Deserialize", "could not deserialize record")
    assert [task.guid for task in desk.voice.list()] == ["good"]
    assert desk.voice.get("bad") == deserialize
    assert desk.do(Call("cancel", "bad")) == deserialize
    desk.converge()
    assert desk.voice.get("bad") == NOT_FOUND
    assert desk.do(desire("bad")) == OK


def test_surprise_35_what_is_taken_unlooked_at(desk: Desk) -> None:
    odd = {
        "environment_variables": [bbs.EnvironmentVariable(name="", value="\u2028")],
        "volume_mounts": [bbs.VolumeMount(mode="x")],
        "metric_tags": {"": bbs.MetricTagValue(static="s", dynamic=2)},
        "egress_rules": [bbs.SecurityGroupRule(protocol="tcp", destinations=["1.2.3.4"], ports=[70_000])],
        "completion_callback_url": "::",
        "volume_mounted_files": [bbs.File()],
    }
    assert desk.do(desire(**odd)) == OK
    assert bbs.TaskDefinition.FromString(desk.task().definition) == bbs.TaskDefinition.FromString(definition(**odd))


def test_surprise_36_the_first_sweep_is_one_interval_after_the_start(desks: Callable[..., Desk]) -> None:
    interval_seconds = 0.5
    desk = desks(converge_repeat_interval_seconds=interval_seconds)
    desk.do(desire())
    desk.stop()
    count = desk.board.contents.tasks["g"].rejection_count
    began = time.monotonic()
    desk.board.start()
    desk.until(lambda: desk.task().rejection_count > count)
    assert time.monotonic() - began >= interval_seconds


def test_surprise_37_fail_is_still_served_and_counts_for_no_cell(desk: Desk) -> None:
    desk.do(desire("failed"), Call("start", "failed", cell_id="c1"), Call("fail", "failed", reason="r"))
    desk.do(desire("done"), Call("start", "done", cell_id="c2"), Call("complete", "done", cell_id="c2", failed=True))
    with urllib.request.urlopen(desk.url + "/metrics", timeout=WAIT_SECONDS) as response:
        lines = [line for line in response.read().decode().splitlines() if line.startswith("bulletin_tasks_failed")]
    assert [line for line in lines if 'cell_id="c2"' in line and line.endswith(" 1.0")]
    assert not [line for line in lines if 'cell_id="c1"' in line and not line.endswith(" 0.0")]


def test_surprise_38_crashes_of_the_reference_are_not_ours(desks: Callable[..., Desk], sink: Sink) -> None:
    desk = desks(resolved_retention_seconds=0.0)
    with Feed(desk.url) as feed:
        nested = bbs.Action(try_action=bbs.TryAction(action=bbs.Action()))
        assert desk.do(desire(action=nested)) == invalid("action", "inner-action")
        # Deleted while it is told: one Removed event, with its task.
        desk.do(desire(completion_callback_url=sink.url("g")), Call("cancel", "g"))
        told = sink.wait_for("g", 1)
        assert desk.do(Call("delete", "g")) == OK
        told.answer(Reply(200))
        desk.until(lambda: not desk.board.is_telling("g"))
        # Refused rejection of a task that has ended: no event.
        desk.do(desire("ended"), Call("cancel", "ended"))
        assert desk.do(Call("reject", "ended", reason="r")) == Answer(
            "InvalidRequest", "the request received is invalid"
        )
        desk.do(desire("last"))
        seen = [(event.name, event.task.guid) for event in feed.take(7)]
    assert seen == [
        ("task_created", "g"),
        ("task_changed", "g"),
        ("task_changed", "g"),
        ("task_removed", "g"),
        ("task_created", "ended"),
        ("task_changed", "ended"),
        ("task_created", "last"),
    ]


# -- not in the list, and surprising ---------------------------------------------------------------------------------


def test_a_guid_used_again_while_its_forerunner_is_told_does_not_wait_for_a_sweep(desk: Desk, sink: Sink) -> None:
    """Section 8: the transition to Completed is what triggers, also when an older task of the guid is still told."""
    slow, other = sink.url("slow"), sink.url("other")
    desk.do(desire("g", completion_callback_url=slow), Call("cancel", "g"))
    told = sink.wait_for("slow", 1)
    desk.do(Call("delete", "g"))
    desk.do(desire("g", completion_callback_url=other), Call("fail", "g", reason="mine"))
    told.answer(Reply(200))
    assert sink.wait_for("other", 1, within_seconds=5).json["failure_reason"] == "mine"
