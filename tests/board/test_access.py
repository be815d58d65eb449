"""The access log: what its lines hold, that they arrive, and that a bad disk keeps nobody waiting."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import signal
import ssl
import threading
import time
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest
import trustme
from support.processes import ServingProcess
from support.served import scrape, serve_board

from bulletin.board import access
from bulletin.board.access import AccessLog
from bulletin.board.metrics import BoardMetrics
from bulletin.core import limits
from bulletin.seams import SystemClock
from bulletin.trust.files import TlsFiles
from bulletin.wire.proto import bbs_pb2 as bbs


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_there(path: Path) -> bool:
    return path.exists()


async def wait_for_lines(path: Path, count: int) -> list[dict]:
    async with asyncio.timeout(20):
        while not is_there(path) or len(read(path)) < count:
            await asyncio.sleep(0.01)
    return read(path)


async def test_two_lines_for_each_request(tmp_path):
    path = tmp_path / "access.log"
    before = time.time()
    async with serve_board(access_log=path) as board:
        await board.desire("g1")
        port = board.url.rpartition(":")[2]
        async with board.session.get(
            board.url + "/v1/task_events?guid=SECRET", headers={"Origin": "http://x"}
        ) as response:
            assert response.status == 403
    lines = read(path)
    assert [line["message"] for line in lines] == [
        "bulletin-access.request.serving",
        "bulletin-access.request.done",
    ] * 2
    serving, done = lines[:2]
    assert list(serving) == ["timestamp", "source", "message", "log_level", "data"]
    assert re.fullmatch(r"\d{10}\.\d{9}", serving["timestamp"])
    assert before <= float(serving["timestamp"]) <= float(done["timestamp"]) <= time.time()
    assert (serving["source"], serving["log_level"]) == ("bulletin-access", 1)
    host, _, peer_port = serving["data"].pop("remote_addr").rpartition(":")
    assert host == "127.0.0.1"
    assert peer_port != port
    assert serving["data"] == {"method": "POST", "request": "/v1/tasks/desire.r2", "session": "1"}
    duration = done["data"].pop("duration")
    assert 0 < duration < 20e9
    assert {name: done["data"][name] for name in serving["data"]} == serving["data"]
    assert lines[2]["data"]["request"] == "/v1/task_events"
    assert lines[2]["data"]["session"] == lines[3]["data"]["session"] == "2"
    assert "SECRET" not in path.read_text()


async def test_a_line_is_in_the_file_within_about_a_second_while_the_board_serves(tmp_path):
    path = tmp_path / "access.log"
    async with serve_board(access_log=path) as board:
        await board.desire("g1")
        assert len(await wait_for_lines(path, 2)) == 2
        stream = await board.session.post(board.url + "/v1/events/tasks.r1")
        lines = await wait_for_lines(path, 3)
        assert (lines[2]["message"], lines[2]["data"]["request"]) == (
            "bulletin-access.request.serving",
            "/v1/events/tasks.r1",
        )
        stream.close()
    assert path.stat().st_mode & 0o777 == 0o640


async def test_names_of_the_certificate(tmp_path):
    authority = trustme.CA(organization_name="Acme, Inc.")
    server = authority.issue_cert("127.0.0.1")
    client = authority.issue_cert(
        "app@example", common_name='app "1"', organization_name="Us", organization_unit_name="client"
    )
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.cert_pem.write_to_path(files.ca)
    server.cert_chain_pems[0].write_to_path(files.cert)
    server.private_key_pem.write_to_path(files.key)
    files.key.chmod(0o600)
    context = ssl.create_default_context(cafile=files.ca)
    client.configure_cert(context)
    path = tmp_path / "access.log"
    async with (
        serve_board(access_log=path, tls=files, roles="off") as board,
        board.session.post(board.url + "/v1/ping", ssl=context) as response,
    ):
        assert bbs.PingResponse.FromString(await response.read()).available
    for line in read(path):
        assert line["data"]["subject"] == {"CN": ['app "1"'], "O": ["Us"], "OU": ["client"]}
        assert line["data"]["issuer"]["O"] == ["Acme, Inc."]
        assert set(line["data"]["issuer"]) == {"CN", "O", "OU"}


async def test_a_file_that_was_moved_away_is_made_again(tmp_path):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    async with serve_board(access_log=path) as board:
        await board.desire("g1")
        path.rename(old)
        board.board.reopen_logs()
        await board.desire("g2")
    assert [line["data"]["session"] for line in read(old)] == ["1", "1"]
    assert [line["data"]["session"] for line in read(path)] == ["2", "2"]


async def test_sighup_reopens_it(tmp_path):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    process = ServingProcess(
        ["board", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), "--access-log", str(path)],
        tmp_path / "board.log",
    )
    url = process.start()
    try:
        async with aiohttp.ClientSession() as session:
            await (await session.post(url + "/v1/ping")).read()
            await wait_for_lines(path, 2)
            path.rename(old)
            process._process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                while not is_there(path):
                    await asyncio.sleep(0.01)
            await (await session.post(url + "/v1/ping")).read()
        assert process.stop() == 0
    finally:
        process.kill()
    assert len(read(old)) == 2
    assert [line["data"]["session"] for line in read(path)] == ["2", "2"]


async def test_off_it_is_not_there():
    async with serve_board() as board:
        assert board.board._access is None
        assert board.board._door._handle == board.board._http.handle
        board.board.reopen_logs()


async def test_a_board_that_cannot_open_it_does_not_start(tmp_path):
    with pytest.raises(OSError, match="Is a directory"):
        async with serve_board(access_log=tmp_path):
            pass


async def test_a_full_disk_costs_lines_and_nothing_else(capsys):
    async with serve_board(access_log=Path("/dev/full")) as board:
        await board.desire("g1")
        async with asyncio.timeout(20):
            while (samples := await scrape(board.session, board.url + "/metrics"))[
                "bulletin_access_log_dropped_total",
            ] < 2:
                await asyncio.sleep(0.01)
        assert samples["bulletin_access_log_dropped_total",] >= 2
    told = [line for line in capsys.readouterr().out.splitlines() if "access_log.failed" in line]
    assert len(told) == 1
    assert "No space left on device" in told[0]


# -- without a board ---------------------------------------------------------------------------------------------------


class Slow(access._File):
    """A file whose writes wait until they are let go."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go = threading.Event()

    def write(self, lines: list[bytes]) -> int:
        assert self.go.wait(20)
        return super().write(lines)


@pytest.fixture
def metrics():
    return BoardMetrics()


@pytest.fixture
async def make_log(tmp_path, metrics):
    made: list[AccessLog] = []

    def make() -> AccessLog:
        log = AccessLog(tmp_path / "access.log", metrics, SystemClock())
        log._file = Slow(tmp_path / "access.log")
        log.open()
        made.append(log)
        return log

    yield make
    for log in made:
        log._file.go.set()
        await log.close()
        await log.close()


async def test_what_waits_for_a_slow_disk_is_bounded(tmp_path, metrics, make_log, monkeypatch):
    monkeypatch.setattr(access, "_FLUSH_BYTES", 1000)
    monkeypatch.setattr(limits, "ACCESS_LOG_WAITING_BYTES_MAX", 10_000)
    log = make_log()
    for number in range(1000):
        log._put("done", f'"n":{number}')
    kept = 1000 - metrics.access_log_dropped
    assert 0 < kept < 100
    log._file.go.set()
    lines = await wait_for_lines(tmp_path / "access.log", kept)
    assert [line["data"]["n"] for line in lines] == list(range(kept))
    log._put("done", '"n":1000')
    await log.close()
    assert read(tmp_path / "access.log")[-1]["data"] == {"n": 1000}
    assert metrics.access_log_dropped == 1000 - kept


async def test_lines_stay_in_order_whatever_they_gather_behind(tmp_path, metrics, make_log, monkeypatch):
    monkeypatch.setattr(access, "_FLUSH_BYTES", 300)
    log = make_log()
    log._file.go.set()
    for number in range(500):
        log._put("serving", f'"n":{number}')
        if number % 7 == 0:
            await asyncio.sleep(0)
    await log.close()
    assert [line["data"]["n"] for line in read(tmp_path / "access.log")] == list(range(500))
    assert metrics.access_log_dropped == 0


async def test_after_the_close_lines_are_dropped(tmp_path, metrics, make_log):
    log = make_log()
    log._file.go.set()
    await log.close()
    log._put("done", "")
    log.reopen()
    assert metrics.access_log_dropped == 1
    assert read(tmp_path / "access.log") == []


def test_a_line_that_was_cut_ends_before_the_next_begins(tmp_path):
    path = tmp_path / "access.log"
    lines = [b'{"n":%03d}\n' % number for number in range(100)]
    file = access._File(path)
    file.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (105, hard))
    try:
        written = file.write(lines)
        again = file.write(lines[:1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (written, again) == (10, 0)
    assert "large" in file.problem
    assert file.write(lines[:2]) == 2
    assert file.write(lines[2:3]) == 1
    file.close()
    text = path.read_bytes()
    assert text == b"".join(lines[:10]) + lines[10][:5] + b"\n" + b"".join(lines[:3])


def test_a_file_that_cannot_be_opened_again_is_tried_with_the_next_lines(tmp_path):
    path = tmp_path / "below" / "access.log"
    path.parent.mkdir()
    file = access._File(path)
    file.open()
    path.unlink()
    path.parent.rmdir()
    file.reopen()
    assert file.write([b"lost\n"]) == 0
    assert "No such file" in file.problem
    path.parent.mkdir()
    assert file.write([b"kept\n"]) == 1
    file.close()
    file.close()
    assert path.read_text() == "kept\n"


def test_whole_lines_are_counted():
    lines = [b"ab\n", b"c\n", b"d\n"]
    counts = [access._whole(lines, written) for written in range(8)]
    assert counts == [0, 0, 0, 1, 1, 2, 2, 3]
    assert all(first <= second for first, second in pairwise(counts))
