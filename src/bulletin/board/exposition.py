"""A board's metrics as a scraper reads them.

Every metric is declared here, once, and documented in docs/reference/metrics.md.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Final

from aiohttp import web
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from bulletin.board.answers import WholeAnswer, text_answer
from bulletin.board.metrics import BoardMetrics, Live
from bulletin.core.model import TaskState
from bulletin.telemetry.metrics import CONTENT_TYPE, Family, Metric, render

__all__ = ["BoardCollector", "answer_scrape", "serve_scrape"]

_TASKS_PENDING: Final = Metric("bulletin_tasks_pending", "gauge", "Tasks that wait for a cell.")
_TASKS_RUNNING: Final = Metric("bulletin_tasks_running", "gauge", "Tasks that run on a cell.")
_TASKS_COMPLETED: Final = Metric("bulletin_tasks_completed", "gauge", "Ended tasks whose outcome nobody took yet.")
_TASKS_RESOLVING: Final = Metric("bulletin_tasks_resolving", "gauge", "Ended tasks whose outcome is being told.")
_TASKS_WAITING: Final = Metric("bulletin_tasks_waiting", "gauge", "Pending tasks that no cell was given yet.")
_STARTED: Final = Metric("bulletin_tasks_started_total", "counter", "Tasks a cell started.", ("cell_id",))
_SUCCEEDED: Final = Metric("bulletin_tasks_succeeded_total", "counter", "Tasks a cell completed.", ("cell_id",))
_FAILED: Final = Metric("bulletin_tasks_failed_total", "counter", "Tasks a cell completed as failed.", ("cell_id",))
_OPERATIONS: Final = Metric(
    "bulletin_task_operations_total", "counter", "Changes of tasks, by what was done.", ("operation",)
)
_KICKED: Final = Metric("bulletin_convergence_tasks_kicked_total", "counter", "Tasks convergence did something about.")
_PRUNED: Final = Metric("bulletin_convergence_tasks_pruned_total", "counter", "Tasks convergence removed.")
_RUNS: Final = Metric("bulletin_convergence_task_runs_total", "counter", "Runs of convergence.")
_RUN_SECONDS: Final = Metric(
    "bulletin_convergence_task_duration_seconds", "gauge", "How long the last run of convergence took."
)
_REQUESTS: Final = Metric(
    "bulletin_request_count_total", "counter", "Requests answered, by route and result.", ("route", "result")
)
_LATENCY: Final = Metric(
    "bulletin_request_latency_seconds",
    "histogram",
    "From a request's head to its answer, streams left out.",
    ("route",),
)
_MASTER: Final = Metric("bulletin_bbs_master_elected", "gauge", "1 once this process has ruled.")
_REIGNS: Final = Metric("bulletin_reigns_total", "counter", "How often this process began to rule.")
_LOCK: Final = Metric("bulletin_lock_held", "gauge", "1 while this process holds the lease.")
_OPEN_FILES: Final = Metric("bulletin_open_file_descriptors", "gauge", "Open file descriptors of this process.")
_ENCRYPTION: Final = Metric(
    "bulletin_encryption_duration_seconds", "gauge", "How long sealing every task with a new key took; 0: not done."
)
_QUERIES: Final = Metric("bulletin_db_queries_total", "counter", "Operations of the store.", ("operation",))
_QUERIES_SUCCEEDED: Final = Metric(
    "bulletin_db_queries_succeeded_total", "counter", "Operations of the store that succeeded.", ("operation",)
)
_QUERIES_FAILED: Final = Metric(
    "bulletin_db_queries_failed_total", "counter", "Operations of the store that failed.", ("operation",)
)
_QUERIES_IN_FLIGHT: Final = Metric("bulletin_db_queries_in_flight", "gauge", "Operations of the store under way.")
_QUERY_SECONDS: Final = Metric(
    "bulletin_db_query_duration_seconds", "histogram", "How long an operation of the store takes.", ("operation",)
)
_COMMIT_SIZE: Final = Metric("bulletin_commit_rows", "histogram", "Rows written or removed in one commit.")
_UNCOMMITTED: Final = Metric("bulletin_changes_uncommitted", "gauge", "Changes that wait for their commit.")
_DOMAIN: Final = Metric("bulletin_domain", "gauge", "1 for each fresh domain.", ("domain",))
_DOMAINS: Final = Metric("bulletin_domains", "gauge", "Fresh domains, those not listed one by one included.")
_CELLS: Final = Metric("bulletin_cells", "gauge", "Cells that are here, or gone for less than their time to live.")
_CELLS_CONNECTED: Final = Metric("bulletin_cells_connected", "gauge", "Cells with a link.")
_FRAMES: Final = Metric("bulletin_link_frames_total", "counter", "Frames on the cells' links.", ("direction",))
_PLACEMENTS: Final = Metric("bulletin_placements_total", "counter", "Tasks given to a cell.")
_REFUSALS: Final = Metric("bulletin_placements_refused_total", "counter", "Tasks that no cell could ever hold.")
_ATTEMPTS: Final = Metric(
    "bulletin_callback_attempts_total", "counter", "Attempts to tell a callback, by what came of them.", ("outcome",)
)
_ATTEMPT_SECONDS: Final = Metric(
    "bulletin_callback_attempt_duration_seconds", "histogram", "How long an attempt to tell a callback takes."
)
_CALLBACKS_QUEUED: Final = Metric("bulletin_callbacks_queued", "gauge", "Callbacks that wait for a worker.")
_CALLBACKS_ACTIVE: Final = Metric("bulletin_callbacks_active", "gauge", "Callbacks being told.")
_EVENTS: Final = Metric("bulletin_events_total", "counter", "Events handed to subscribers, each once a subscriber.")
_SUBSCRIBERS: Final = Metric("bulletin_subscribers", "gauge", "Event streams being served.")
_SUBSCRIBERS_DROPPED: Final = Metric(
    "bulletin_subscribers_dropped_total", "counter", "Readers of events that fell behind and lost some."
)
_ACCESS_DROPPED: Final = Metric(
    "bulletin_access_log_dropped_total", "counter", "Lines the access log lost to a slow or full disk."
)
_BUILD: Final = Metric("bulletin_build_info", "gauge", "1, with what this process is made of.", ("version", "python"))


class BoardCollector(Collector):
    """Makes the families of a scrape of ``metrics``."""

    def __init__(self, metrics: BoardMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        """Every family, those without a value included."""
        live = self._metrics.live() if self._metrics.live is not None else Live()
        yield from self._tasks(live)
        yield from self._requests()
        yield from self._store(live)
        yield from self._ruling()
        yield from self._cells(live)
        yield from self._telling(live)
        yield from self._process()

    def _tasks(self, live: Live) -> Iterator[Family]:
        metrics = self._metrics
        yield _TASKS_PENDING.value(live.tasks[TaskState.PENDING])
        yield _TASKS_RUNNING.value(live.tasks[TaskState.RUNNING])
        yield _TASKS_COMPLETED.value(live.tasks[TaskState.COMPLETED])
        yield _TASKS_RESOLVING.value(live.tasks[TaskState.RESOLVING])
        yield _TASKS_WAITING.value(live.tasks_waiting)
        cells = list(metrics.cells())
        yield _STARTED.values(((cell_id,), started) for cell_id, started, _, _ in cells)
        yield _SUCCEEDED.values(((cell_id,), succeeded) for cell_id, _, succeeded, _ in cells)
        yield _FAILED.values(((cell_id,), failed) for cell_id, _, _, failed in cells)
        yield _OPERATIONS.values(((_snake(kind.__name__),), count) for kind, count in metrics.operations.items())
        yield _KICKED.value(metrics.convergence_kicked)
        yield _PRUNED.value(metrics.convergence_pruned)
        yield _RUNS.value(metrics.convergence_runs)
        yield _RUN_SECONDS.value(metrics.convergence_seconds)
        yield _DOMAIN.values(((domain,), 1) for domain in live.domains)
        yield _DOMAINS.value(live.domains_count)

    def _requests(self) -> Iterator[Family]:
        routes = self._metrics.routes
        yield _REQUESTS.values(
            ((name, result), count) for name, route in routes.items() for result, count in route.results.items()
        )
        yield _LATENCY.histograms(((name,), route.latency) for name, route in routes.items() if route.latency.count)

    def _store(self, live: Live) -> Iterator[Family]:
        metrics = self._metrics
        succeeded = {name: histogram.count for name, histogram in metrics.query_seconds.items()}
        yield _QUERIES.values(((name,), count) for name, count in metrics.queries.items())
        yield _QUERIES_SUCCEEDED.values(
            ((name,), count - metrics.queries_failed.get(name, 0)) for name, count in succeeded.items()
        )
        yield _QUERIES_FAILED.values(((name,), metrics.queries_failed.get(name, 0)) for name in metrics.queries)
        yield _QUERIES_IN_FLIGHT.value(metrics.queries_in_flight)
        yield _QUERY_SECONDS.histograms(((name,), each) for name, each in metrics.query_seconds.items())
        yield _COMMIT_SIZE.histograms((((), metrics.commit_rows),))
        yield _UNCOMMITTED.value(live.changes_uncommitted)

    def _ruling(self) -> Iterator[Family]:
        metrics = self._metrics
        yield _MASTER.value(metrics.reigns > 0)
        yield _REIGNS.value(metrics.reigns)
        yield _LOCK.value(metrics.lock_held)
        yield _ENCRYPTION.value(metrics.encryption_seconds)

    def _cells(self, live: Live) -> Iterator[Family]:
        metrics = self._metrics
        yield _CELLS.value(live.cells)
        yield _CELLS_CONNECTED.value(live.cells_connected)
        yield _FRAMES.values(((("received",), metrics.frames_received), (("sent",), metrics.frames_sent)))
        yield _PLACEMENTS.value(metrics.placements)
        yield _REFUSALS.value(metrics.placements_refused)

    def _telling(self, live: Live) -> Iterator[Family]:
        metrics = self._metrics
        yield _ATTEMPTS.values(((outcome,), count) for outcome, count in metrics.callback_attempts.items())
        yield _ATTEMPT_SECONDS.histograms((((), metrics.callback_seconds),))
        yield _CALLBACKS_QUEUED.value(live.callbacks_queued)
        yield _CALLBACKS_ACTIVE.value(live.callbacks_active)
        yield _EVENTS.value(metrics.events_sent)
        yield _SUBSCRIBERS.value(live.subscribers)
        yield _SUBSCRIBERS_DROPPED.value(metrics.subscribers_dropped)

    def _process(self) -> Iterator[Family]:
        yield _ACCESS_DROPPED.value(self._metrics.access_log_dropped)
        yield _BUILD.values(((_build(), 1),))
        for family in ProcessCollector(registry=None).collect():
            yield family
            if family.name == "process_open_fds":
                yield _OPEN_FILES.value(family.samples[0].value)


@cache
def _build() -> tuple[str, str]:
    """The versions of this program and of Python; looking the first one up takes milliseconds."""
    return version("bulletin"), platform.python_version()


async def answer_scrape(metrics: BoardMetrics) -> web.StreamResponse:
    """The answer to ``GET /metrics``."""
    return WholeAnswer(await render((BoardCollector(metrics),)), CONTENT_TYPE.encode("ascii"))


async def serve_scrape(metrics: BoardMetrics, request: web.BaseRequest) -> web.StreamResponse:
    """What the listener for scrapers answers: it has one path."""
    if request.path != "/metrics":
        return text_answer(404, "404 page not found\n")
    if request.method not in {"GET", "HEAD"}:
        return text_answer(405, "Method Not Allowed\n", b"Allow: GET, HEAD\r\n")
    return await answer_scrape(metrics)


def _snake(name: str) -> str:
    """``CellDisappeared`` as ``cell_disappeared``."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
