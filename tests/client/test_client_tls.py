"""https with certificates on both sides, as a BBS wants it (board-api.md 1.1)."""

from __future__ import annotations

import shutil
import ssl
import subprocess

import pytest
from aiohttp import web

from bulletin import AsyncClient, BoardUnreachable
from bulletin.wire.proto import bbs_pb2

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make certificates")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A directory with ca.pem, and a certificate and key each for the server and the client."""
    directory = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    for name in ("server", "client"):
        openssl(
            *new,
            *("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}"),
            *("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
        )
    return directory


@pytest.fixture
async def url(authority):
    async def ping(_request: web.Request) -> web.Response:
        body = bbs_pb2.PingResponse(available=True).SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority / "ca.pem"))
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_post("/v1/ping", ping)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_certificate_opens(authority, url):
    context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    context.load_cert_chain(authority / "client.pem", authority / "client.key")
    async with AsyncClient(url, ssl=context) as client:
        assert await client.ping()


async def test_without_a_certificate_there_is_no_board(authority, url):
    context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    async with AsyncClient(url, ssl=context, retries=1) as client:
        with pytest.raises(BoardUnreachable):
            await client.ping()


async def test_a_board_nobody_vouches_for_is_none(url):
    async with AsyncClient(url, retries=1) as client:
        with pytest.raises(BoardUnreachable, match="certificate"):
            await client.ping()
