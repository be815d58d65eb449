"""What a board counts: every value after a history that is known, over HTTP, read by prometheus_client's own parser."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from support.ports import free_port
from support.served import Served, desire_request, scrape, serve_board

from bulletin.board import exposition
from bulletin.board.app import Board
from bulletin.board.exposition import BoardCollector
from bulletin.board.metered import MeteredStore
from bulletin.board.metrics import BoardMetrics, Live
from bulletin.board.settings import Address, BoardSettings
from bulletin.board.writer import Writer
from bulletin.core import callbacks, limits, operations
from bulletin.core.errors import TaskError
from bulletin.core.lifecycle import Policy
from bulletin.core.model import CallbackAttempt, Definition, TaskState
from bulletin.core.operations import Complete, Start
from bulletin.seams import RandomIds, SystemClock
from bulletin.store.api import Batch, LeaseHeld, StoreError
from bulletin.store.broken import BrokenStore, Failure, fail_always, fail_at
from bulletin.store.memory import Contents, MemoryStore
from bulletin.telemetry.metrics import Metric, render
from bulletin.wire import link as wire_link
from bulletin.wire.proto import bbs_pb2 as bbs
from bulletin.wire.proto import link_pb2

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
DECLARED = [each for each in vars(exposition).values() if isinstance(each, Metric)]


@pytest.fixture
async def board():
    async with serve_board() as served:
        yield served


async def live_through_everything(board: Served) -> None:
    """Leaves g2 and g4 Completed, g3 Running, g5 Pending; g1 is gone."""
    await board.done("domains/upsert", bbs.UpsertDomainRequest(domain="fresh", ttl=60), bbs.UpsertDomainResponse)
    for number in range(1, 6):
        await board.desire(f"g{number}")
    assert await board.start("g1", "c1")
    assert not await board.start("g1", "c1")
    assert await board.start("g2", "c1")
    assert await board.start("g3", "c2")
    await board.complete("g1", "c1", result="r")
    await board.complete("g2", "c1", failed=True, failure_reason="f")
    await board.act("cancel", "g4")
    await board.done("tasks/reject", bbs.RejectTaskRequest(task_guid="g5", rejection_reason="x"))
    await board.act("resolving", "g1")
    await board.act("delete", "g1")


async def test_tasks_after_a_known_history(board):
    await live_through_everything(board)
    samples = await scrape(board.session, board.url + "/metrics")
    states = {state: samples[f"bulletin_tasks_{state}",] for state in ("pending", "running", "completed", "resolving")}
    assert states == {"pending": 1, "running": 1, "completed": 2, "resolving": 0}
    by_cell = {
        (what, cell): samples.get((f"bulletin_tasks_{what}_total", ("cell_id", cell)))
        for what in ("started", "succeeded", "failed")
        for cell in ("c1", "c2")
    }
    assert by_cell == {
        ("started", "c1"): 2,
        ("succeeded", "c1"): 1,
        ("failed", "c1"): 1,
        ("started", "c2"): 1,
        ("succeeded", "c2"): 0,
        ("failed", "c2"): 0,
    }
    operations = {key[1][1]: value for key, value in samples.items() if key[0] == "bulletin_task_operations_total"}
    assert operations == {
        "desire": 5,
        "start": 3,
        "complete": 2,
        "cancel": 1,
        "reject": 1,
        "resolving": 1,
        "delete": 1,
    }
    assert samples["bulletin_domain", ("domain", "fresh")] == 1
    assert samples["bulletin_domains",] == 1
    assert samples["bulletin_tasks_waiting",] == 1
    assert samples["bulletin_changes_uncommitted",] == 0


async def test_requests_by_route_and_result(board):
    await live_through_everything(board)
    missing = await board.call("tasks/get_by_task_guid.r3", bbs.TaskByGuidRequest(task_guid="no"), bbs.TaskResponse)
    assert missing.error.type == bbs.Error.ResourceNotFound
    taken = await board.call("tasks/desire.r2", desire_request("g5"))
    assert taken.error.type == bbs.Error.ResourceExists
    async with board.session.post(board.url + "/v1/tasks/desire.r2", data=b"\xff") as response:
        assert (await response.read())[:1] == b"\x0a"
    async with board.session.get(board.url + "/v1/tasks/desire.r2") as response:
        assert response.status == 405
    async with board.session.get(board.url + "/v1/nowhere") as response:
        assert response.status == 404
    async with board.session.post(board.url + "/v1/ping", headers={"Origin": "http://elsewhere"}) as response:
        assert response.status == 403
    async with board.session.get(board.url + "/v1/tasks/no/output") as response:
        assert response.status == 404
    await scrape(board.session, board.url + "/metrics")
    samples = await scrape(board.session, board.url + "/metrics")

    requests = {
        tuple(value for _, value in key[1:]): value
        for key, value in samples.items()
        if key[0] == "bulletin_request_count_total"
    }
    assert requests == {
        ("ok", "UpsertDomain"): 1,
        ("ok", "DesireTask"): 5,
        ("resource_exists", "DesireTask"): 1,
        ("invalid_request", "DesireTask"): 1,
        ("ok", "StartTask"): 4,
        ("ok", "CompleteTask"): 2,
        ("ok", "CancelTask"): 1,
        ("ok", "RejectTask"): 1,
        ("ok", "ResolvingTask"): 1,
        ("ok", "DeleteTask"): 1,
        ("resource_not_found", "TaskByGuid"): 1,
        ("http_404", "TaskOutput"): 1,
        ("ok", "Metrics"): 1,
        ("http_405", "none"): 1,
        ("http_404", "none"): 1,
        ("http_403", "none"): 1,
    }
    by_route = Counter()
    for (_, route), count in requests.items():
        by_route[route] += count
    observed = {
        key[1][1]: value for key, value in samples.items() if key[0] == "bulletin_request_latency_seconds_count"
    }
    assert observed == {route: count for route, count in by_route.items() if route != "none"}
    assert samples["bulletin_request_latency_seconds_bucket", ("le", "+Inf"), ("route", "DesireTask")] == 7
    assert samples["bulletin_request_latency_seconds_sum", ("route", "DesireTask")] > 0


async def test_a_stream_is_counted_when_it_ends_and_never_timed(board):
    async def streams() -> tuple[float | None, float, float]:
        samples = await scrape(board.session, board.url + "/metrics")
        assert ("bulletin_request_latency_seconds_count", ("route", "TaskEventStream")) not in samples
        results = [value for key, value in samples.items() if ("route", "TaskEventStream") in key]
        return sum(results), samples["bulletin_subscribers",], samples["bulletin_events_total",]

    response = await board.session.post(board.url + "/v1/events/tasks.r1")
    assert await streams() == (0, 1, 0)
    await board.desire("g1")
    await board.act("cancel", "g1")
    assert await streams() == (0, 1, 2)
    response.close()
    async with asyncio.timeout(10):
        while (await streams())[1]:
            await board.desire(uuid.uuid4().hex)  # an event finds out that nobody reads
    assert (await streams())[0] == 1


async def test_convergence(board):
    for number in range(4):
        await board.desire(f"g{number}")
    await board.start("g1")
    await board.act("cancel", "g2")
    converger = board.reign.converger
    converger._policy = type(converger._policy)(expire_pending_task_seconds=0.0, expire_completed_task_seconds=0.0)
    board.reign.cells._opened_at -= 3600  # no cell has come in all that time
    await converger.converge()
    samples = await scrape(board.session, board.url + "/metrics")
    assert samples["bulletin_convergence_task_runs_total",] == 1
    assert samples["bulletin_convergence_tasks_kicked_total",] == 3  # two expired, one lost with its cell
    assert samples["bulletin_convergence_tasks_pruned_total",] == 1  # the cancelled one
    assert samples["bulletin_convergence_task_duration_seconds",] > 0
    assert samples["bulletin_task_operations_total", ("operation", "cell_disappeared")] == 1
    assert samples["bulletin_task_operations_total", ("operation", "expire")] == 2
    assert samples["bulletin_task_operations_total", ("operation", "prune")] == 1
    assert samples["bulletin_tasks_failed_total", ("cell_id", "c1")] == 0


async def test_the_store(board):
    board.store.hold_commits()
    gathered = [asyncio.create_task(board.desire(f"g{number}")) for number in range(30)]
    async with asyncio.timeout(10):
        while board.reign.writer.uncommitted_count < 30:
            await asyncio.sleep(0)
    samples = await scrape(board.session, board.url + "/metrics")
    commit = ("operation", "commit")
    begun = samples.get(("bulletin_db_queries_total", commit), 0)
    assert samples["bulletin_db_queries_in_flight",] == 1
    assert samples["bulletin_changes_uncommitted",] == 30
    assert begun == samples.get(("bulletin_db_queries_succeeded_total", commit), 0) + 1
    board.store.release_commits()
    await asyncio.gather(*gathered)
    samples = await scrape(board.session, board.url + "/metrics")
    assert samples["bulletin_db_queries_in_flight",] == 0
    assert samples["bulletin_db_queries_total", commit] == samples["bulletin_db_queries_succeeded_total", commit]
    assert samples["bulletin_db_queries_failed_total", commit] == 0
    assert samples["bulletin_db_query_duration_seconds_count", commit] == samples["bulletin_db_queries_total", commit]
    assert samples["bulletin_commit_rows_sum",] == 30
    assert samples["bulletin_commit_rows_count",] == samples["bulletin_db_queries_total", commit]


async def test_counters_outlive_a_reign_and_gauges_are_of_the_next():
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    async with serve_board(metrics=Address("127.0.0.1", port)) as board:
        await board.desire("kept")
        await board.start("kept")
        lost = board.reign
        board.store.fail = fail_at("commit", board.store.calls["commit"] + 1, Failure.BEFORE)
        answer = await board.call("tasks/cancel", bbs.TaskGuidRequest(task_guid="kept"))
        assert answer.error.type == bbs.Error.UnknownError
        async with asyncio.timeout(20):
            while board.board._http.reign in {None, lost}:
                await scrape(board.session, url)  # it answers all the time
        samples = await scrape(board.session, url)
        assert samples["bulletin_reigns_total",] == 2
        assert samples["bulletin_bbs_master_elected",] == 1
        assert samples["bulletin_lock_held",] == 1
        assert samples["bulletin_tasks_running",] == 1
        assert samples["bulletin_tasks_completed",] == 0
        assert samples["bulletin_tasks_started_total", ("cell_id", "c1")] == 1
        assert samples["bulletin_db_queries_failed_total", ("operation", "commit")] == 1
        assert samples["bulletin_request_count_total", ("result", "unknown_error"), ("route", "CancelTask")] == 1
        assert samples["bulletin_db_queries_total", ("operation", "acquire")] == 2


async def test_a_standby_is_scraped_too():
    contents, clock, port = Contents(), SystemClock(), free_port()
    contested = {"database": "postgresql://nowhere", "lease_seconds": 3600.0, "lease_retry_seconds": 0.01}
    async with serve_board(MemoryStore(clock=clock, contents=contents), **contested) as leader:
        await leader.desire("g1")
        settings = BoardSettings(listen=Address("127.0.0.1", 0), metrics=Address("127.0.0.1", port), **contested)
        standby = Board(settings, MemoryStore(clock=clock, contents=contents), clock, RandomIds())
        running = asyncio.create_task(standby.run())
        try:
            async with asyncio.timeout(20):
                while True:
                    with suppress(aiohttp.ClientConnectionError):
                        samples = await scrape(leader.session, f"http://127.0.0.1:{port}/metrics")
                        if samples.get(("bulletin_db_queries_total", ("operation", "acquire")), 0) > 1:
                            break
                    await asyncio.sleep(0.01)
        finally:
            standby.stop()
            await running
    assert samples["bulletin_lock_held",] == samples["bulletin_bbs_master_elected",] == 0
    assert samples["bulletin_tasks_pending",] == samples["bulletin_reigns_total",] == 0
    assert samples["bulletin_db_queries_failed_total", ("operation", "acquire")] == 0


async def test_the_listener_of_its_own_has_one_path():
    port = free_port()
    async with serve_board(metrics=Address("127.0.0.1", port)) as board:
        url = f"http://127.0.0.1:{port}"
        assert await scrape(board.session, url + "/metrics")
        async with board.session.head(url + "/metrics") as response:
            assert response.status == 200
        async with board.session.get(url + "/") as response:
            assert response.status == 404
        async with board.session.post(url + "/metrics") as response:
            assert response.status == 405
            assert response.headers["Allow"] == "GET, HEAD"
    with pytest.raises(aiohttp.ClientConnectionError):
        async with aiohttp.ClientSession() as session, session.get(url + "/metrics"):
            pass


async def test_a_scraper_that_keeps_its_connection_does_not_keep_the_board_from_stopping():
    port = free_port()
    async with aiohttp.ClientSession() as session, serve_board(metrics=Address("127.0.0.1", port)):
        await scrape(session, f"http://127.0.0.1:{port}/metrics")


async def test_cells_links_and_placements(board):
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
        await board.desire("g1", memory_mb=10)
        assert link_pb2.Frame.FromString(await socket.receive_bytes()).WhichOneof("body") == "assign"
        created_at = board.reign.writer.tasks["g1"].created_at
        start = link_pb2.Frame(start=link_pb2.Start(task_guid="g1", created_at=created_at))
        await socket.send_bytes(start.SerializeToString())
        assert link_pb2.Frame.FromString(await socket.receive_bytes()).started.should_start
        await board.desire("g2", root_fs="preloaded:nowhere")
        async with asyncio.timeout(10):
            while not board.reign.writer.tasks["g2"].rejection_count:
                await asyncio.sleep(0)
        samples = await scrape(board.session, board.url + "/metrics")
    assert samples["bulletin_cells",] == samples["bulletin_cells_connected",] == 1
    assert samples["bulletin_link_frames_total", ("direction", "received")] == 1  # after the Hello
    assert samples["bulletin_link_frames_total", ("direction", "sent")] == 3
    assert samples["bulletin_placements_total",] == 1
    assert samples["bulletin_placements_refused_total",] == 1
    assert samples["bulletin_tasks_started_total", ("cell_id", "c1")] == 1
    async with asyncio.timeout(10):
        while board.reign.cells.connected_count:
            await asyncio.sleep(0)
    samples = await scrape(board.session, board.url + "/metrics")
    assert (samples["bulletin_cells",], samples["bulletin_cells_connected",]) == (1, 0)
    assert samples["bulletin_request_count_total", ("result", "ok"), ("route", "Link")] == 1


async def test_callbacks(board):
    told = asyncio.Event()
    answers = [503, 204]

    async def receive(_request: web.BaseRequest) -> web.StreamResponse:
        status = answers.pop(0)
        if not answers:
            told.set()
        return web.Response(status=status)

    server = web.Server(receive)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
    try:
        await board.desire("g1", completion_callback_url=url)
        await board.act("cancel", "g1")
        async with asyncio.timeout(20):
            await told.wait()
            while not board.reign.writer.tasks["g1"].delivered_at:
                await asyncio.sleep(0)
        samples = await scrape(board.session, board.url + "/metrics")
    finally:
        listener.close()
        server.pre_shutdown()
        await server.shutdown(1)
    assert samples["bulletin_callback_attempts_total", ("outcome", "try_later")] == 1
    assert samples["bulletin_callback_attempts_total", ("outcome", "status_2xx")] == 1
    assert samples["bulletin_callback_attempt_duration_seconds_count",] == 2
    assert samples["bulletin_task_operations_total", ("operation", "deliver")] == 1
    assert samples["bulletin_tasks_resolving",] == 1
    assert samples["bulletin_callbacks_queued",] == 0


@pytest.mark.parametrize(
    ("outcome", "label"),
    [
        (callbacks.Answered(200), "status_2xx"),
        (callbacks.Answered(404), "status_4xx"),
        (callbacks.Answered(503), "try_later"),
        (callbacks.Answered(504), "try_later"),
        (callbacks.Answered(500), "status_5xx"),
        (callbacks.TimedOut(), "timed_out"),
        (callbacks.ConnectionClosed(), "connection_closed"),
        *((callbacks.Unreachable(failure), failure.name.lower()) for failure in callbacks.Failure),
    ],
)
def test_what_came_of_an_attempt(outcome, label):
    metrics = BoardMetrics()
    metrics.called_back(outcome, 0.5)
    assert metrics.callback_attempts == {label: 1}
    assert metrics.callback_seconds.sum == 0.5


def test_the_cell_idle_longest_makes_room(monkeypatch):
    monkeypatch.setattr(limits, "CELLS_MAX", 3)
    metrics = BoardMetrics()
    for cell_id in ("a", "b", "c", "a", "d", "e"):
        metrics.stepped(Start("g", cell_id))
    metrics.stepped(Complete("g", "a", True, "", ""))
    assert list(metrics.cells()) == [("d", 1, 0, 0), ("e", 1, 0, 0), ("a", 2, 0, 1)]


async def test_domains_are_shown_one_by_one_up_to_a_bound(board, monkeypatch):
    monkeypatch.setattr(limits, "METRIC_DOMAINS_MAX", 2)
    for name in ("a", "b", "c"):
        await board.done("domains/upsert", bbs.UpsertDomainRequest(domain=name, ttl=60), bbs.UpsertDomainResponse)
    await board.reign.writer.upsert_domain("stale", 1)
    samples = await scrape(board.session, board.url + "/metrics")
    shown = {key[1][1] for key in samples if key[0] == "bulletin_domain"}
    assert shown == {"a", "b"}
    assert samples["bulletin_domains",] == 3


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["Desire", "Start", "Complete", "Fail", "Cancel", "Reject", "Resolving", "Deliver", "Delete",
                         "Expire", "CellDisappeared", "Demote", "Prune", "RecordAttempts"]),
        st.sampled_from(["g1", "g2", "g3"]),
    ),
    max_size=60,
)  # fmt: skip


@given(OPERATIONS)
def test_the_counts_by_state_are_those_of_the_tasks(history):
    make = {
        "Desire": lambda guid: operations.Desire(guid, "d", Definition(b"", "docker:///x")),
        "Start": lambda guid: operations.Start(guid, "c"),
        "Complete": lambda guid: operations.Complete(guid, "c", False, "", ""),
        "Fail": lambda guid: operations.Fail(guid, "f"),
        "Reject": lambda guid: operations.Reject(guid, "r"),
        "RecordAttempts": lambda guid: operations.RecordAttempts(guid, (CallbackAttempt(1, 2, 503, "x"),)),
    }

    async def live() -> None:
        store = MemoryStore(clock=SystemClock())
        await store.open()
        lease = await store.acquire("a", 60.0)
        writer = Writer(
            store, lease, SystemClock(), Policy(), publish=lambda _: None, perform=lambda _: None, retry_seconds=0.0
        )
        for kind, guid in history:
            with suppress(TaskError):
                writer.submit(make[kind](guid) if kind in make else getattr(operations, kind)(guid))
            counted = Counter(task.state for task in writer.tasks.values())
            assert list(writer.counts) == [counted[state] for state in sorted(TaskState)]

    asyncio.run(live())


# -- the store's own numbers ------------------------------------------------------------------------------------------


async def test_every_operation_of_the_store_is_passed_on_and_counted():
    clock = SystemClock()
    metrics = BoardMetrics()
    broken = BrokenStore(MemoryStore(clock=clock))
    store = MeteredStore(broken, metrics)
    await store.open()
    lease = await store.acquire("a", 60.0)
    with pytest.raises(LeaseHeld):
        await store.acquire("b", 60.0)
    await store.renew(lease, 60.0)
    await store.commit(Batch(domains={"d": 7}, configurations={"k": "v"}), lease)
    assert [chunk async for chunk in store.load()] == []
    assert await store.load_domains() == {"d": 7}
    assert await store.load_configurations() == {"k": "v"}
    assert await store.output("g") is None
    await store.prune_outputs(0, 0)
    broken.fail = fail_always("output")
    with pytest.raises(StoreError):
        await store.output("g")
    await store.release(lease)
    await store.close()
    expected = Counter(
        open=1, acquire=2, renew=1, commit=1, load=1, load_domains=1, load_configurations=1, output=2, prune_outputs=1,
        release=1,
    )  # fmt: skip
    assert metrics.queries == expected
    assert metrics.queries_failed == {"output": 1}
    assert metrics.queries_in_flight == 0
    assert {name: each.count for name, each in metrics.query_seconds.items()} == expected
    assert metrics.commit_rows.sum == 2


async def test_a_load_that_fails_counts_as_failed():
    metrics = BoardMetrics()
    store = MeteredStore(BrokenStore(MemoryStore(clock=SystemClock()), fail_always("load")), metrics)
    await store.open()
    with pytest.raises(StoreError):
        [chunk async for chunk in store.load()]
    assert metrics.queries_failed == {"load": 1}


# -- names ------------------------------------------------------------------------------------------------------------


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name to kind and labels, as the tables of the document say."""
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        if match := re.match(r"\| `((?:bulletin|process)_\w+)` \| (\w+) \|([^|]*)\|", line):
            name, kind, labels = match.groups()
            assert name not in rows, f"{name} is documented twice"
            rows[name] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    return rows


def test_every_declared_metric_is_documented_as_it_is():
    assert {each.name: (each.kind, each.labels) for each in DECLARED} == {
        name: row for name, row in documented().items() if name.startswith("bulletin_")
    }


async def test_every_exposed_metric_is_documented_and_every_documented_one_exposed():
    text = (await render([BoardCollector(BoardMetrics())])).decode()
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
    }
    assert exposed == {name: kind for name, (kind, _) in documented().items()}


def test_a_metric_is_declared_once():
    names = [each.name for each in DECLARED]
    assert len(names) == len(set(names))
    assert all(each.help.endswith(".") for each in DECLARED)


async def test_a_standby_shows_nothing_of_tasks():
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families((await render([BoardCollector(BoardMetrics())])).decode())
        for sample in family.samples
    }
    assert samples["bulletin_tasks_pending"] == samples["bulletin_lock_held"] == samples["bulletin_reigns_total"] == 0
    assert samples["bulletin_bbs_master_elected"] == 0
    assert len(Live().tasks) == len(TaskState)
