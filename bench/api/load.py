"""The load: the Go generator ``bench/bbsload`` with the published client, or a client of our own where Go is missing.

Both are closed loops: each connection has one request under way, the next follows its answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import uvloop

from bench.harness import RESULTS, ROOT, percentile
from bulletin.wire.proto import bbs_pb2

__all__ = ["GoLoad", "Load", "LoadFailed", "PythonLoad", "Sample", "choose_load", "definition"]

_OPERATIONS_MAX = 1_000_000
#: What a run may take beyond its own time: the first connections, and the last answers.
_GRACE_SECONDS = 120
_PREFIX = "g"


class LoadFailed(Exception):
    """A run did not end well; the text says how."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    operations: int
    per_second: float
    p50_ms: float
    p99_ms: float
    #: CPU time of the server for each operation.
    server_cpu_us: float
    #: Cores that neither the server nor the load used; None where it is not known.
    other_cores: float | None = None
    #: Of a listing: when its first byte was there.
    first_byte_p50_ms: float | None = None
    bytes: int = 0


class Load(Protocol):
    """Drives a server at a URL; ``pid`` is the server, whose CPU time is read."""

    name: str

    def fill(self, url: str, tasks: int) -> None:
        """Desire ``g-0000000`` and so on."""
        ...

    def desire(self, url: str, pid: int, connections: int, seconds: float) -> Sample:
        """Desire new tasks for so long."""
        ...

    def get(self, url: str, pid: int, connections: int, seconds: float, tasks: int) -> Sample:
        """Read tasks that ``fill`` desired, by guid, at random, for so long."""
        ...

    def listing(self, url: str, pid: int, times: int) -> Sample:
        """Read all tasks so many times, one after the other, without decoding them."""
        ...


def choose_load(python_only: bool) -> Load:
    """The Go generator where it can be built."""
    if python_only or shutil.which("go") is None:
        return PythonLoad()
    return GoLoad.build()


def definition() -> bbs_pb2.TaskDefinition:
    """The same definition as bbsload's, so that both loads ask for the same work."""
    run = bbs_pb2.RunAction(path="sh", args=["-c", "echo hello world > result-file.txt"], user="user")
    run.env.add(name="FOO", value="BAR")
    run.resource_limits.SetInParent()
    task = bbs_pb2.TaskDefinition(
        root_fs="docker:///docker.com/docker",
        action=bbs_pb2.Action(run_action=run),
        memory_mb=256,
        disk_mb=1024,
        max_pids=1024,
        cpu_weight=42,
        log_guid="log-guid-123",
        log_source="APP",
        metrics_guid="metrics-guid-456",
        result_file="result-file.txt",
        annotation="place any label/note/thing here",
        trusted_system_certificates_path="/etc/somepath",
    )
    for number in range(5):
        task.environment_variables.add(name=f"VAR_{number}", value=f"value-of-variable-{number}")
    task.egress_rules.add(
        protocol="tcp", destinations=["0.0.0.0/0"], port_range=bbs_pb2.PortRange(start=1, end=1024), log=True
    )
    task.egress_rules.add(protocol="udp", destinations=["8.8.0.0/16"], ports=[53])
    return task


class GoLoad:
    """``bench/bbsload``: the published Go client, in a process of its own."""

    name = "bbsload (the published Go client)"

    def __init__(self, binary: Path) -> None:
        self._binary = binary

    @classmethod
    def build(cls) -> GoLoad:
        binary = RESULTS / "bin" / "bbsload"
        binary.parent.mkdir(parents=True, exist_ok=True)
        build = subprocess.run(
            ["go", "build", "-o", str(binary), "."],
            cwd=ROOT / "bench" / "bbsload",
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if build.returncode != 0:
            raise LoadFailed(f"bbsload does not build: {build.stderr}")
        return cls(binary)

    def fill(self, url: str, tasks: int) -> None:
        self._run(url, 0, 60.0, "-mode", "fill", "-prefix", _PREFIX, "-c", "16", "-n", str(tasks))

    def desire(self, url: str, pid: int, connections: int, seconds: float) -> Sample:
        return self._timed(url, pid, seconds, "-mode", "desire", "-c", str(connections))

    def get(self, url: str, pid: int, connections: int, seconds: float, tasks: int) -> Sample:
        options = ["-mode", "get", "-prefix", _PREFIX, "-tasks", str(tasks), "-c", str(connections)]
        return self._timed(url, pid, seconds, *options)

    def listing(self, url: str, pid: int, times: int) -> Sample:
        return _go_sample(self._run(url, pid, times * 5.0, "-mode", "list", "-raw", "-n", str(times)))

    def _timed(self, url: str, pid: int, seconds: float, *options: str) -> Sample:
        return _go_sample(self._run(url, pid, seconds, *options, "-n", str(_OPERATIONS_MAX), "-dur", f"{seconds:.3f}s"))

    def _run(self, url: str, pid: int, seconds: float, *options: str) -> dict[str, Any]:
        command = [str(self._binary), "-url", url, *options]
        if pid:
            command += ["-pids", f"server={pid}"]
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + _GRACE_SECONDS, check=False, cwd=RESULTS
        )
        if run.returncode != 0:
            raise LoadFailed(f"{' '.join(command)} ended with {run.returncode}: {run.stdout} {run.stderr}")
        answer: dict[str, Any] = json.loads(run.stdout)
        return answer


def _go_sample(answer: dict[str, Any]) -> Sample:
    return Sample(
        operations=answer["n"],
        per_second=answer["ops_per_s"],
        p50_ms=answer["lat_ms"]["p50"],
        p99_ms=answer["lat_ms"]["p99"],
        server_cpu_us=1e6 * answer["cpu_s"]["server"] / answer["n"],
        other_cores=answer["cpu_s"]["others_cores"],
        first_byte_p50_ms=answer["ttfb_ms"]["p50"] if "ttfb_ms" in answer else None,
        bytes=answer.get("body_bytes", 0),
    )


class PythonLoad:
    """A client of our own on aiohttp: dearer than the Go one, so the server has less of the machine."""

    name = "a Python client (Go is not used): it takes more of the machine than the Go one"

    def fill(self, url: str, tasks: int) -> None:
        numbers = iter(range(tasks))
        uvloop.run(_drive(url, 16, 60.0, lambda session: _desire(session, _PREFIX, numbers)))

    def desire(self, url: str, pid: int, connections: int, seconds: float) -> Sample:
        numbers = itertools.count()
        prefix = f"t{time.time_ns():x}"
        return self._measured(url, pid, connections, seconds, lambda session: _desire(session, prefix, numbers))

    def get(self, url: str, pid: int, connections: int, seconds: float, tasks: int) -> Sample:
        # A stride that is prime to the count visits them all, in an order no cache likes.
        numbers = (number * 7_919 % tasks for number in itertools.count())
        return self._measured(url, pid, connections, seconds, lambda session: _get(session, numbers))

    def listing(self, url: str, pid: int, times: int) -> Sample:
        firsts: list[float] = []
        remaining = iter(range(times))
        sample = self._measured(url, pid, 1, times * 5.0, lambda session: _list(session, remaining, firsts))
        return Sample(
            operations=sample.operations,
            per_second=sample.per_second,
            p50_ms=sample.p50_ms,
            p99_ms=sample.p99_ms,
            server_cpu_us=sample.server_cpu_us,
            first_byte_p50_ms=1000 * percentile(firsts, 0.5),
        )

    def _measured(self, url: str, pid: int, connections: int, seconds: float, call: _Caller) -> Sample:
        before = _cpu_seconds(pid)
        latencies, wall = uvloop.run(_drive(url, connections, seconds, call))
        return Sample(
            operations=len(latencies),
            per_second=len(latencies) / wall,
            p50_ms=1000 * percentile(latencies, 0.5),
            p99_ms=1000 * percentile(latencies, 0.99),
            server_cpu_us=1e6 * (_cpu_seconds(pid) - before) / len(latencies),
        )


#: Makes one call with a session; False when there is nothing left to call.
_Call = Callable[[], Awaitable[bool]]
_Caller = Callable[[aiohttp.ClientSession], _Call]


async def _drive(url: str, connections: int, seconds: float, call: _Caller) -> tuple[list[float], float]:
    latencies: list[float] = []
    connector = aiohttp.TCPConnector(limit=connections)
    timeout = aiohttp.ClientTimeout(total=_GRACE_SECONDS)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(_post(session, "/v1/ping", b"") for _ in range(connections)))
        make = call(session)
        start = time.perf_counter()

        async def work() -> None:
            while (began := time.perf_counter()) < start + seconds and await make():
                latencies.append(time.perf_counter() - began)

        await asyncio.gather(*(work() for _ in range(connections)))
        return latencies, time.perf_counter() - start


async def _post(session: aiohttp.ClientSession, path: str, body: bytes) -> bytes:
    async with session.post(path, data=body, headers={"Content-Type": "application/x-protobuf"}) as response:
        answer = await response.read()
        if response.status != 200:
            raise LoadFailed(f"{path} answered {response.status}")
        return answer


def _desire(session: aiohttp.ClientSession, prefix: str, numbers: itertools.count[int] | Any) -> _Call:
    tail = bbs_pb2.DesireTaskRequest(task_definition=definition(), domain="bench").SerializeToString()

    async def call() -> bool:
        number = next(numbers, None)
        if number is None:
            return False
        guid = bbs_pb2.DesireTaskRequest(task_guid=f"{prefix}-{number:07d}").SerializeToString()
        answer = await _post(session, "/v1/tasks/desire.r2", tail + guid)
        if answer:
            raise LoadFailed(f"desire: {bbs_pb2.TaskLifecycleResponse.FromString(answer)}")
        return True

    return call


def _get(session: aiohttp.ClientSession, numbers: Any) -> _Call:
    async def call() -> bool:
        guid = f"{_PREFIX}-{next(numbers):07d}"
        body = bbs_pb2.TaskByGuidRequest(task_guid=guid).SerializeToString()
        answer = bbs_pb2.TaskResponse.FromString(await _post(session, "/v1/tasks/get_by_task_guid.r3", body))
        if answer.task.task_guid != guid:
            raise LoadFailed(f"get {guid}: {answer}")
        return True

    return call


def _list(session: aiohttp.ClientSession, remaining: Any, firsts: list[float]) -> _Call:
    async def call() -> bool:
        if next(remaining, None) is None:
            return False
        start = time.perf_counter()
        headers = {"Content-Type": "application/x-protobuf"}
        async with session.post("/v1/tasks/list.r3", data=b"", headers=headers) as response:
            if response.status != 200:
                raise LoadFailed(f"list answered {response.status}")
            first = True
            async for _ in response.content.iter_any():
                if first:
                    firsts.append(time.perf_counter() - start)
                    first = False
        return True

    return call


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
