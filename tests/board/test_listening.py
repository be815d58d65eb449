"""Listening over real sockets, on both loops: who gets in, what the others are told, and what a crowd costs."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
import uvloop
from aiohttp import web
from cryptography import x509
from structlog.testing import CapturingLogger

from bulletin.board import handshakes, listening
from bulletin.board.handshakes import explain
from bulletin.board.listening import Listener, listen
from bulletin.board.settings import Address
from bulletin.core import limits
from bulletin.trust.contexts import TrustError
from bulletin.trust.files import TlsFiles

LOOPBACK = Address("127.0.0.1", 0)
TWO_CIPHERS = ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]
PLAIN_ANSWER = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


def save(issued: trustme.LeafCert, authority: trustme.CA, directory: Path, name: str) -> TlsFiles:
    """Write a certificate the way an operator has it; a file that is there is replaced by a rename."""
    directory.mkdir(exist_ok=True)
    files = TlsFiles(directory / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key")
    contents = {
        files.ca: authority.cert_pem.bytes(),
        files.cert: b"".join(blob.bytes() for blob in issued.cert_chain_pems),
        files.key: issued.private_key_pem.bytes(),
    }
    for path, content in contents.items():
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.chmod(0o600)
        fresh.rename(path)
    return files


@dataclass(frozen=True)
class Trust:
    authority: trustme.CA
    directory: Path
    board: TlsFiles

    def client_context(self, issued: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        (issued or self.authority.issue_cert("client", common_name="client")).configure_cert(context)
        return context

    def stranger_context(self) -> ssl.SSLContext:
        """Trusts the board, and shows no certificate."""
        return ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())


@pytest.fixture(scope="module", params=[trustme.KeyType.ECDSA, trustme.KeyType.RSA], ids=["ecdsa", "rsa"])
def trust(request, tmp_path_factory) -> Trust:
    authority = trustme.CA(key_type=request.param)
    directory = tmp_path_factory.mktemp("trust")
    issued = authority.issue_cert("127.0.0.1", "localhost", key_type=request.param)
    return Trust(authority, directory, save(issued, authority, directory, "board"))


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request) -> Callable:
    def run(test) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(test, 30))

    return run


@pytest.fixture
def logged(monkeypatch) -> Callable[[str], list[dict]]:
    """What is logged of an event; other tests may have set logging up for good."""
    logger = CapturingLogger()
    monkeypatch.setattr(listening, "log", logger)
    monkeypatch.setattr(handshakes, "log", logger)
    return lambda event: [call.kwargs for call in logger.calls if call.args == (event,)]


@asynccontextmanager
async def serving(tls: TlsFiles | None, address=LOOPBACK, is_full=None) -> AsyncIterator[tuple[Listener, web.Server]]:
    """A server that answers every request with the common name of its peer."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        certificate = request.get_extra_info("peercert")
        names = [value for rdn in certificate["subject"] for key, value in rdn if key == "commonName"]
        return web.Response(text=",".join(names))

    server = web.Server(answer)
    listener = await listen(asyncio.get_running_loop(), address, server, tls, is_full)
    try:
        yield listener, server
    finally:
        listener.close()
        await server.shutdown(1)


def ask(port: int, context: ssl.SSLContext | None, request: bytes = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n") -> bytes:
    """One request over a connection of its own, as a blocking client does it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        if context is None:
            raw.sendall(request)
            return read_all(raw)
        with context.wrap_socket(raw, server_hostname="localhost") as wrapped:
            wrapped.sendall(request)
            return wrapped.recv(65536)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(65536):
        data += more
    return data


async def asking(port: int, context: ssl.SSLContext | None, *arguments) -> bytes:
    return await asyncio.to_thread(ask, port, context, *arguments)


def one_version(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


# -- who gets in ---------------------------------------------------------------------------------------------------


def test_a_certificate_of_the_authority_gets_in(run, trust):
    async def test():
        async with serving(trust.board) as (listener, _):
            assert (await asking(listener.port, trust.client_context())).endswith(b"client")

    run(test())


def test_alpn_is_not_answered(run, trust):
    async def test():
        context = trust.client_context()
        context.set_alpn_protocols(["h2", "http/1.1"])

        def negotiated(port):
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
                context.wrap_socket(raw, server_hostname="localhost") as wrapped,
            ):
                return wrapped.selected_alpn_protocol(), wrapped.version()

        async with serving(trust.board) as (listener, _):
            assert await asyncio.to_thread(negotiated, listener.port) == (None, "TLSv1.3")

    run(test())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_a_certificate_the_alert_says_so(run, trust, version):
    async def test():
        context = one_version(trust.stranger_context(), version)
        context.set_ciphers("ALL")
        async with serving(trust.board) as (listener, _):
            with pytest.raises(ssl.SSLError) as caught:
                await asking(listener.port, context)
        if version is ssl.TLSVersion.TLSv1_3:
            assert caught.value.reason == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        else:  # 1.2 has no alert of its own for it
            assert "ALERT" in caught.value.reason

    run(test())


def test_the_certificate_of_another_authority_is_refused(run, trust):
    async def test():
        other = trustme.CA().issue_cert("client", common_name="client")
        async with serving(trust.board) as (listener, _):
            with pytest.raises(ssl.SSLError, match="unknown ca"):
                await asking(listener.port, trust.client_context(other))

    run(test())


@pytest.mark.parametrize("days", [(-20, -10), (10, 20)], ids=["expired", "not yet valid"])
def test_a_certificate_out_of_its_time_is_refused(run, trust, days):
    now = dt.datetime.now(dt.UTC)
    begin, end = (now + dt.timedelta(days=day) for day in days)

    async def test():
        old = trust.authority.issue_cert("client", common_name="client", not_before=begin, not_after=end)
        async with serving(trust.board) as (listener, _):
            with pytest.raises(ssl.SSLError, match="expired|bad certificate"):
                await asking(listener.port, trust.client_context(old))

    run(test())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_tls_before_1_2_is_refused(run, trust, version):
    async def test():
        context = one_version(trust.client_context(), version)
        context.set_ciphers("ALL:@SECLEVEL=0")
        async with serving(trust.board) as (listener, _):
            with pytest.raises(ssl.SSLError, match="(?i)protocol version|protocol_version"):
                await asking(listener.port, context)

    run(test())


@pytest.mark.parametrize("cipher", TWO_CIPHERS)
def test_the_two_ciphers_of_tls_1_2_need_an_rsa_certificate(run, trust, cipher):
    async def test():
        context = one_version(trust.client_context(), ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(cipher)
        async with serving(trust.board) as (listener, _):
            if b"RSA PRIVATE" in trust.board.key.read_bytes():
                assert (await asking(listener.port, context)).endswith(b"client")
            else:
                with pytest.raises(ssl.SSLError, match="handshake failure"):
                    await asking(listener.port, context)

    run(test())


def test_no_other_cipher_of_tls_1_2_is_taken(run, trust):
    async def test():
        context = one_version(trust.client_context(), ssl.TLSVersion.TLSv1_2)
        context.set_ciphers("ALL:" + ":".join(f"!{cipher}" for cipher in TWO_CIPHERS))
        async with serving(trust.board) as (listener, _):
            with pytest.raises(ssl.SSLError, match="handshake failure"):
                await asking(listener.port, context)

    run(test())


# -- what the others are told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"x" * 100_000])
def test_plain_http_is_told_that_this_is_https(run, trust, body):
    async def test():
        request = b"POST /v1/ping HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with serving(trust.board) as (listener, _):
            assert await asking(listener.port, None, request + body[:40_000]) == PLAIN_ANSWER

    run(test())


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"\xff" * 100, b"\x16" + b"\x00" * 50])
def test_nonsense_ends_without_an_answer_of_http(run, trust, data):
    async def test():
        async with serving(trust.board) as (listener, _):
            try:
                answer = await asking(listener.port, None, data)
            except ConnectionResetError:
                answer = b""
            assert b"HTTP" not in answer

    run(test())


def test_why_a_handshake_failed_is_logged_but_not_for_ever(run, trust, logged):
    async def test():
        async with serving(trust.board) as (listener, _):
            for _ in range(20):
                with pytest.raises(ssl.SSLError):
                    await asking(listener.port, trust.stranger_context())

    run(test())
    failed = logged("handshake.failed")
    assert "shows no certificate" in failed[0]["reason"]
    assert failed[0]["remote"] == "127.0.0.1"
    assert len(failed) <= 15


# -- crowds ---------------------------------------------------------------------------------------------------------


def test_peers_that_say_nothing_do_not_keep_others_out(run, trust, monkeypatch):
    monkeypatch.setattr(limits, "HANDSHAKES_MAX", 8)
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS_MAX", 60.0)  # it is not that bound which lets them go
    monkeypatch.setattr(listening, "_PATIENCE_SECONDS", 0.1)

    async def test():
        async with serving(trust.board) as (listener, _):
            silent = [socket.create_connection(("127.0.0.1", listener.port), timeout=10) for _ in range(30)]
            try:
                for begun in silent[::2]:
                    begun.sendall(b"\x16\x03\x01")
                assert (await asking(listener.port, trust.client_context())).endswith(b"client")
                # The oldest gave way.
                assert await asyncio.to_thread(hung_up, silent[0])
                assert await asyncio.to_thread(hung_up, silent[1])
            finally:
                for connection in silent:
                    connection.close()

    run(test())


def hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_a_peer_that_stops_in_the_middle_is_let_go(run, trust, monkeypatch, first):
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS_MAX", 0.2)

    async def test():
        async with serving(trust.board) as (listener, _):
            with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as slow:
                slow.sendall(first)
                assert await asyncio.to_thread(hung_up, slow)

    run(test())


@pytest.mark.parametrize("together", [4, 300])
def test_many_at_once_all_get_in(run, trust, monkeypatch, together):
    """A crowd is no reason to let go of anybody: what has no room waits."""
    monkeypatch.setattr(limits, "HANDSHAKES_MAX", together)
    monkeypatch.setattr(listening, "_PATIENCE_SECONDS", 30.0)

    async def test():
        context = trust.client_context()
        async with serving(trust.board) as (listener, _):

            async def one() -> bytes:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", listener.port, ssl=context, server_hostname="localhost"
                )
                writer.write(b"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                await writer.wait_closed()
                return answer

            answers = await asyncio.gather(*(one() for _ in range(100)))
            assert all(answer.endswith(b"client") for answer in answers)

    run(test())


def test_a_full_board_closes_what_comes(run, trust):
    async def test():
        full = True
        for tls, context in ((None, None), (trust.board, trust.client_context())):
            async with serving(tls, is_full=lambda: full) as (listener, _):
                with suppress(ConnectionResetError, ssl.SSLError):
                    assert await asking(listener.port, context) == b""

    run(test())


# -- rotation -------------------------------------------------------------------------------------------------------


def test_renewed_certificates_are_taken_without_a_restart(run, trust, logged, tmp_path, monkeypatch):
    monkeypatch.setattr("bulletin.trust.contexts._CHECK_SECONDS", 0.0)

    def serial(port: int) -> int:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            trust.client_context().wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            return x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True)).serial_number

    async def test():
        files = save(trust.authority.issue_cert("localhost"), trust.authority, tmp_path / "own", "board")
        async with serving(files) as (listener, _):
            first = await asyncio.to_thread(serial, listener.port)
            assert await asyncio.to_thread(serial, listener.port) == first
            standing = await asyncio.open_connection(
                "127.0.0.1", listener.port, ssl=trust.client_context(), server_hostname="localhost"
            )

            os.replace(save(trust.authority.issue_cert("x"), trust.authority, tmp_path / "o2", "x").cert, files.cert)
            assert await asyncio.to_thread(serial, listener.port) == first, "key and certificate are no pair"

            save(trust.authority.issue_cert("localhost"), trust.authority, tmp_path / "own", "board")
            second = await asyncio.to_thread(serial, listener.port)
            assert second != first

            reader, writer = standing
            writer.write(b"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"client"), "a connection that stands goes on"
            writer.close()
            await writer.wait_closed()

    run(test())
    assert len(logged("certificates.unusable")) == 1
    assert len(logged("certificates.renewed")) == 1


@pytest.mark.parametrize("days", [5, 90])
def test_a_certificate_that_ends_soon_is_told_at_once_and_again(run, trust, logged, tmp_path, monkeypatch, days):
    monkeypatch.setattr(listening, "_WATCH_SECONDS", 0.0)
    end = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    files = save(trust.authority.issue_cert("localhost", not_after=end), trust.authority, tmp_path / "own", "board")

    async def test():
        async with serving(files) as (listener, _):
            await asking(listener.port, trust.client_context())

    run(test())
    told = logged("certificate.ends")
    assert len(told) >= 2 if days == 5 else not told


# -- sockets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
def test_accepted_sockets_have_the_keep_alive_of_the_reference(run, trust, secure):
    seen: list[int] = []

    async def test():
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            sock = request.get_extra_info("socket")
            seen.extend(
                sock.getsockopt(level, option)
                for level, option in (
                    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
                )
            )
            return web.Response(headers={"Connection": "close"})

        server = web.Server(answer)
        listener = await listen(asyncio.get_running_loop(), LOOPBACK, server, trust.board if secure else None)
        request = b"GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n"
        await asking(listener.port, trust.client_context() if secure else None, request)
        listener.close()
        await server.shutdown(1)

    run(test())
    assert seen == [1, 180, 180, 1]


def test_a_closed_listener_is_closed_at_once_and_twice(run, trust):
    async def test():
        async with serving(trust.board) as (listener, _):
            with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as silent:
                await asyncio.sleep(0)
                listener.close()
                listener.close()
                assert await asyncio.to_thread(hung_up, silent)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", listener.port), timeout=10)

    run(test())


def test_all_addresses_of_a_host_share_one_port(run, trust):
    async def test():
        async with serving(trust.board, Address("localhost", 0)) as (listener, _):
            assert (await asking(listener.port, trust.client_context())).endswith(b"client")

    run(test())


def test_an_address_in_use_is_an_error(run, trust):
    async def test():
        async with serving(trust.board) as (listener, _):
            with pytest.raises(OSError, match="in use"):
                async with serving(trust.board, Address("127.0.0.1", listener.port)):
                    pass

    run(test())


def test_unusable_files_are_an_error_before_anything_listens(run, trust, tmp_path):
    async def test():
        missing = TlsFiles(tmp_path / "ca.pem", trust.board.cert, trust.board.key)
        with pytest.raises(TrustError, match="cannot be found"):
            await listen(asyncio.get_running_loop(), LOOPBACK, asyncio.Protocol, missing)

    run(test())


def test_the_reasons_of_the_operating_system_are_told():
    assert explain(ConnectionResetError(104, "Connection reset by peer")) == "Connection reset by peer"
    assert explain(ConnectionAbortedError()) == "ConnectionAbortedError"
