"""Dialling boards: several in turn, with certificates, and what the log says when it comes to nothing."""

from __future__ import annotations

import datetime as dt
import errno
import socket
import ssl
from dataclasses import replace
from types import SimpleNamespace

import pytest
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientOSError,
    ServerTimeoutError,
    WSServerHandshakeError,
    web,
)
from structlog.testing import CapturingLogger

from bulletin.cell import agent
from bulletin.cell.dialling import Boards, explain
from bulletin.cell.settings import CellSettings, SettingError, read_certificate_name
from bulletin.core import limits
from bulletin.trust.authority import Purpose
from bulletin.trust.contexts import server_context
from bulletin.trust.directory import Order, create
from bulletin.trust.files import TlsFiles
from bulletin.wire.routes import Role

CELL = frozenset({Role.CELL})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dialling") / "certs"
    orders = [
        Order("board", Purpose.BOARD, hosts=("127.0.0.1",)),
        Order("elsewhere", Purpose.BOARD, hosts=("elsewhere",)),
        Order("cell-1", Purpose.PEER, CELL),
    ]
    create(directory, orders, dt.datetime.now(dt.UTC), days=2)
    return lambda name: TlsFiles(directory / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key")


@pytest.fixture
async def serve():
    """Serves a handler at ``/v1/link``; returns the URL."""
    runners = []

    async def serve(handler, context=None) -> str:
        app = web.Application()
        app.router.add_get("/v1/link", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        return f"{'http' if context is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


# -- several boards --------------------------------------------------------------------------------------------------


def test_boards_take_turns():
    boards = Boards(["http://a", "http://b"])
    assert (boards.present, boards.count) == ("http://a", 2)
    boards.go_on()
    assert boards.present == "http://b"
    boards.go_on()
    assert boards.present == "http://a"


def test_a_round_takes_about_as_long_as_one_board_may():
    assert Boards(["a"]).open_seconds == limits.LINK_OPEN_SECONDS_MAX
    assert Boards(["a", "b"]).open_seconds == limits.LINK_OPEN_SECONDS_MAX / 2
    assert Boards(["a"] * 100).open_seconds == 2.0


@pytest.fixture
def failures(monkeypatch):
    """What the agent logs of links that failed; other tests may have set logging up for good."""
    logger = CapturingLogger()
    monkeypatch.setattr(agent, "log", logger)
    return lambda: [call.kwargs for call in logger.calls if call.args == ("link.failed",)]


async def test_one_that_refuses_and_one_that_does_not_serve_are_passed_over(cell, board, serve, unused_port, failures):
    async def standby(_request):
        return web.Response(status=503)

    urls = [f"http://127.0.0.1:{unused_port()}", await serve(standby), board.url]
    cell.settings = replace(cell.settings, board_url=",".join(urls))
    await cell.up()
    await board.start()
    failed = failures()
    assert [line["board"] for line in failed] == urls[:2]
    assert failed[1]["error"] == "the board does not serve yet"
    assert cell.welcomed == 1


async def test_one_that_says_nothing_is_passed_over(cell, board, monkeypatch):
    monkeypatch.setattr("bulletin.cell.dialling._OPEN_SECONDS_MIN", 0.05)
    monkeypatch.setattr(limits, "LINK_OPEN_SECONDS_MAX", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system takes the connection, and nobody answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cell.settings = replace(cell.settings, board_url=f"{url},{board.url}")
        await cell.up()


async def test_the_board_that_welcomed_is_kept(cell, board, serve):
    asked = []

    async def other(_request):
        asked.append(1)
        return web.Response(status=503)

    cell.settings = replace(cell.settings, board_url=f"{await serve(other)},{board.url}")
    await cell.up()
    await board.drop()
    await board.hello()
    assert asked == [1], "a link that ended is opened again where it was"


# -- certificates ----------------------------------------------------------------------------------------------------


async def test_a_cell_shows_its_certificate(cell, board, serve, certificates):
    seen = []

    async def link(request):
        seen.append(request.get_extra_info("peercert")["subject"])
        return await board.serve(request)

    url = await serve(link, server_context(certificates("board")))
    cell.settings = replace(cell.settings, board_url=url, tls=certificates("cell-1"))
    cell.settings.check()
    await cell.up()
    assert (("commonName", "cell-1"),) in seen[0]
    await cell.down()


async def test_a_board_of_another_name_is_not_talked_to(cell, board, serve, certificates, failures):
    bad = await serve(board.serve, server_context(certificates("elsewhere")))
    good = await serve(board.serve, server_context(certificates("board")))
    cell.settings = replace(cell.settings, board_url=f"{bad},{good}", tls=certificates("cell-1"))
    await cell.up()
    (failed,) = failures()
    assert "the board's certificate is refused: IP address mismatch" in failed["error"]
    await cell.down()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "https needs --ca, --cert and --key"),
        ({"cell_id": "another", "tls": "cell-1"}, "which is cell-1; pass --id cell-1"),
        ({"cell_id": "cell-1", "tls": "missing"}, "cannot be found"),
    ],
)
def test_what_cannot_be_is_refused(certificates, fields, text):
    if "tls" in fields:
        fields = {**fields, "tls": certificates(fields["tls"])}
    with pytest.raises(SettingError, match=text):
        CellSettings(board_url="https://board:1", **fields).check()
    CellSettings(board_url="http://127.0.0.1:1", **fields).check()  # plain HTTP needs none of it


def test_the_name_in_a_certificate(certificates):
    assert read_certificate_name(certificates("cell-1")) == "cell-1"


# -- words -----------------------------------------------------------------------------------------------------------

KEY = SimpleNamespace(host="b", port=1, ssl=True, is_ssl=True)


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def refused(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, message)
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (WSServerHandshakeError(None, (), status=403), "has not the role cell"),
        (WSServerHandshakeError(None, (), status=503), "does not serve yet"),
        (WSServerHandshakeError(None, (), status=404), "HTTP status 404"),
        (ClientConnectorCertificateError(KEY, refused("unknown")), "certificate is refused: unknown; check --ca"),
        (ClientConnectorCertificateError(KEY, ssl.CertificateError("odd")), "certificate is refused: "),
        (ClientConnectorCertificateError(KEY, ValueError("odd")), "certificate is refused: odd"),
        (ClientOSError(1, "x"), "x"),
        (tls_error("TLSV1_ALERT_UNKNOWN_CA"), "does not know the authority of this cell's"),
        (tls_error("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "bulletin certs renew"),
        (tls_error("SOMETHING_ELSE"), "something else"),
        (ClientConnectorError(KEY, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), "refused"),
        (TimeoutError(), "the board does not answer"),
        (ServerTimeoutError("slow"), "the board does not answer"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_why_a_board_could_not_be_dialled(error, words):
    assert words in explain(error)
    assert "object at 0x" not in explain(error)
