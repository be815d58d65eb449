"""https with certificates on both sides, as a BBS wants it (board-api.md 1.1), and what is said when it goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl

import pytest
import trustme
from aiohttp import web

from bulletin import AsyncClient, BoardUnreachable, Client, Forbidden
from bulletin.board.listening import listen
from bulletin.board.settings import Address
from bulletin.trust.contexts import TrustError
from bulletin.trust.files import TlsFiles
from bulletin.wire.proto import bbs_pb2


def write(directory, name, ca, certificate=None):
    """PEM files of an authority, or of a certificate and its key."""
    if certificate is None:
        path = directory / f"{name}-ca.pem"
        ca.cert_pem.write_to_path(str(path))
        return path
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    for path, blobs in ((cert, certificate.cert_chain_pems), (key, [certificate.private_key_pem])):
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        path.chmod(0o600)
    return cert, key


class Files:
    """What the two sides present and trust."""

    def __init__(self, directory):
        self.directory = directory
        self.authority, self.stranger = trustme.CA(), trustme.CA()
        self.ca = write(directory, "ours", self.authority)
        self.strange_ca = write(directory, "strange", self.stranger)
        long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        self.board = self._issue("board", self.authority, "127.0.0.1")
        self.elsewhere = self._issue("elsewhere", self.authority, "board.example", "10.0.0.1")
        self.expired_board = self._issue("expired-board", self.authority, "127.0.0.1", not_after=long_ago)
        self.client = self._issue("client", self.authority, "client")
        self.expired_client = self._issue("expired-client", self.authority, "client", not_after=long_ago)
        self.strange_client = self._issue("strange-client", self.stranger, "client")

    def _issue(self, name, authority, *identities, **options):
        return write(self.directory, name, authority, authority.issue_cert(*identities, **options))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def serve(files):
    """Starts listeners of boards that answer every request as a ping; gives their URLs."""

    async def ping(_request: web.BaseRequest) -> web.Response:
        body = bbs_pb2.PingResponse(available=True).SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    async with contextlib.AsyncExitStack() as stack:

        async def start(certificate=files.board):
            server = web.Server(ping)
            loop = asyncio.get_running_loop()
            listener = await listen(loop, Address("127.0.0.1", 0), server, TlsFiles(files.ca, *certificate))
            stack.push_async_callback(server.shutdown, 0.01)
            stack.callback(listener.close)
            return f"https://127.0.0.1:{listener.port}"

        yield start


async def test_a_certificate_opens(files, serve):
    cert, key = files.client
    async with AsyncClient(await serve(), ca=files.ca, cert=cert, key=key) as client:
        assert await client.ping()


async def test_texts_name_files_as_well_as_paths_and_a_context_stands_in_for_both(files, serve):
    url, (cert, key) = await serve(), files.client
    async with AsyncClient(url, ca=str(files.ca), cert=str(cert), key=str(key)) as client:
        assert await client.ping()
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(cert, key)
    async with AsyncClient(url, ssl=context) as client:
        assert await client.ping()


async def test_the_key_may_stand_in_the_file_of_the_certificate(files, serve, tmp_path):
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(files.client[0].read_bytes() + files.client[1].read_bytes())
    async with AsyncClient(await serve(), ca=files.ca, cert=both) as client:
        assert await client.ping()


async def failure(url, **arguments):
    async with AsyncClient(url, retries=3, timeout_seconds=5, **arguments) as client:
        with pytest.raises(BoardUnreachable) as failed:
            await client.ping()
    return failed.value


async def test_without_a_certificate_there_is_no_board(files, serve):
    error = await failure(await serve(), ca=files.ca)
    assert error.cause == "it wants a certificate of us"
    assert "--cert, --key" in error.hint


@pytest.mark.parametrize(
    ("ours", "cause"),
    [
        ("strange_client", "it does not trust the authority of our certificate"),
        ("expired_client", "our certificate has expired"),
    ],
)
async def test_a_certificate_that_the_board_refuses(files, serve, ours, cause):
    cert, key = getattr(files, ours)
    error = await failure(await serve(), ca=files.ca, cert=cert, key=key)
    assert error.cause == cause
    assert "--cert" in error.hint


@pytest.mark.parametrize(
    ("theirs", "trusted", "cause", "hint"),
    [
        ("board", "strange_ca", "nobody we trust vouches for the board's certificate", "--ca"),
        ("board", None, "nobody we trust vouches for the board's certificate", "BULLETIN_CA"),
        ("expired_board", "ca", "the board's certificate has expired", "renew"),
        ("elsewhere", "ca", "the board's certificate is for another address", "stands in the board's certificate"),
    ],
)
async def test_a_board_that_cannot_be_trusted(files, serve, theirs, trusted, cause, hint):
    arguments = {} if trusted is None else {"ca": getattr(files, trusted)}
    error = await failure(await serve(getattr(files, theirs)), **arguments)
    assert error.cause == cause
    assert hint in error.hint


async def test_a_board_by_another_name(files, serve):
    error = await failure((await serve()).replace("127.0.0.1", "localhost"), ca=files.ca)
    assert error.cause == "the board's certificate is for another host name"


async def test_https_to_a_board_of_http(board, files):
    error = await failure(board.url.replace("http:", "https:"), ca=files.ca)
    assert error.cause == "it does not speak TLS"
    assert "http://" in error.hint


async def test_http_to_a_board_of_https(serve):
    error = await failure((await serve()).replace("https:", "http:"))
    assert error.cause == "it speaks TLS"
    assert "https://" in error.hint


async def test_what_will_not_change_is_not_tried_again(files, serve, monkeypatch):
    monkeypatch.setattr("bulletin.client.transport.RETRY_DELAY_SECONDS", 1000)
    urls = [await serve(files.elsewhere), await serve(files.expired_board)]
    error = await failure(urls, ca=files.ca, failover_seconds=1000)
    assert "another address" in error.cause
    assert "expired" in error.cause


async def test_the_next_board_may_have_a_better_certificate(files, serve):
    cert, key = files.client
    urls = [await serve(files.expired_board), await serve()]
    async with AsyncClient(urls, ca=files.ca, cert=cert, key=key) as client:
        assert await client.ping()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "k"}, "key needs cert"),
        ({"cert": "c"}, "cert needs ca"),
        ({"ca": "c", "ssl": ssl.create_default_context()}, "ssl stands in for ca, cert and key"),
    ],
)
def test_arguments_that_make_no_sense(arguments, words):
    for kind in (AsyncClient, Client):
        with pytest.raises(ValueError, match=words):
            kind("https://127.0.0.1:1", **arguments)


def test_files_that_cannot_be_used_are_named(files, tmp_path):
    with pytest.raises(TrustError, match=r"nowhere\.pem"):
        AsyncClient("https://127.0.0.1:1", ca=tmp_path / "nowhere.pem")
    with pytest.raises(TrustError, match=r"is not the key of"):
        AsyncClient("https://127.0.0.1:1", ca=files.ca, cert=files.client[0], key=files.board[1])


async def test_a_refusal_for_want_of_a_role_is_told_as_one():
    """403 with the wire's own error: an answer, and not one to be tried again."""

    async def refuse(_request: web.Request) -> web.Response:
        error = bbs_pb2.Error(type=bbs_pb2.Error.InvalidRequest, message="cancelling needs the role client")
        body = bbs_pb2.TaskLifecycleResponse(error=error).SerializeToString()
        return web.Response(status=403, body=body, content_type="application/x-protobuf")

    async def refuse_plainly(_request: web.Request) -> web.Response:
        return web.Response(status=403, text="reading output needs the role client\n")

    app = web.Application()
    app.router.add_post("/v1/tasks/cancel", refuse)
    app.router.add_get("/v1/tasks/g/output", refuse_plainly)
    app.router.add_post("/v1/events/tasks.r1", refuse_plainly)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with AsyncClient(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
        with pytest.raises(Forbidden, match=r"cancelling needs the role client; .*--cert"):
            await client.cancel("g")
        for work in (client.output("g"), anext(client.events()), client.wait("g")):
            with pytest.raises(Forbidden, match="reading output needs the role client"):
                await work
    await runner.cleanup()
