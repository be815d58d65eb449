"""Whom a callback connects to and whom it trusts, against real sockets and certificates, on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from structlog.testing import capture_logs

from bulletin.board import resolving
from bulletin.board.dialling import Dialler, callback_context
from bulletin.board.posting import Answer, Pool
from bulletin.board.resolving import Resolver
from bulletin.board.settings import BoardSettings
from bulletin.core import limits
from bulletin.core.callbacks import Failure, Unreachable
from bulletin.seams import SystemClock
from bulletin.trust.files import TlsFiles
from bulletin.wire.http1 import Origin

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
TOLD = Answer(200, None)

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request) -> Run:
    def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(20):
                await story()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run


class Authorities:
    """The board's authority and another one, with certificates of both in files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ours, self.other = trustme.CA(), trustme.CA()
        self.other_ca = directory / "other-ca.pem"
        self.other.cert_pem.write_to_path(str(self.other_ca))
        self.board = self.files("board", self.ours.issue_cert("board.internal"))

    def files(self, name: str, leaf: trustme.LeafCert) -> TlsFiles:
        ca, cert, key = (self.directory / f"{name}-{part}.pem" for part in ("ca", "cert", "key"))
        self.ours.cert_pem.write_to_path(str(ca))
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        key.chmod(0o600)
        return TlsFiles(ca, cert, key)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory) -> Authorities:
    return Authorities(tmp_path_factory.mktemp("authorities"))


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def listening(talk: Talk, *, port: int = 0, **options: Any) -> AsyncIterator[int]:
    """A server on a port; its connections have ended when this has."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except OSError:
            pass  # it is the other side that is tested
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", port, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*talks, return_exceptions=True), 5)
        await asyncio.sleep(0.01)  # what was aborted is closed in a later turn of the loop


class Receiver:
    """A TLS server that answers everything with 200 and remembers who came."""

    def __init__(self) -> None:
        self.peers: list[dict[str, Any] | None] = []
        self.versions: list[str | None] = []
        self.origin = Origin(True, "localhost", 0)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        self.peers.append(tls.getpeercert())
        self.versions.append(tls.version())
        while await reader.read(65536):
            writer.write(ANSWER)
            await writer.drain()


@contextlib.asynccontextmanager
async def receive(
    authority: trustme.CA, *names: str, clients: trustme.CA | None = None, **versions: ssl.TLSVersion
) -> AsyncIterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, version in versions.items():
        setattr(context, name, version)
    authority.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    receiver = Receiver()
    async with listening(receiver.talk, ssl=context) as port:
        receiver.origin = Origin(True, "localhost", port)
        yield receiver


@contextlib.asynccontextmanager
async def pool(**settings: Any) -> AsyncIterator[Pool]:
    made = Pool(Dialler(BoardSettings(**settings), SystemClock()))
    yield made
    await made.close()
    # What stayed open would keep uvloop from ending: it waits for the farewell of a TLS connection.
    assert made._open == set()


def test_a_board_trusts_its_own_authority_and_presents_its_certificate(run, authorities):
    async def story() -> None:
        async with receive(authorities.ours, clients=authorities.ours) as receiver, pool(tls=authorities.board) as ours:
            assert await ours.exchange(receiver.origin, REQUEST) == TOLD
            assert await ours.exchange(receiver.origin, REQUEST) == TOLD
            [peer] = receiver.peers  # one connection, used twice
            assert peer is not None
            assert ("DNS", "board.internal") in peer["subjectAltName"]

    run(story)


def test_an_address_is_checked_as_one(run, authorities):
    async def story() -> None:
        async with receive(authorities.ours) as receiver, pool(tls=authorities.board) as ours:
            assert await ours.exchange(receiver.origin._replace(host="127.0.0.1"), REQUEST) == TOLD

    run(story)


@pytest.mark.parametrize("system_roots", [False, True])
def test_another_authority_is_not_trusted(run, authorities, system_roots):
    async def story() -> None:
        async with (
            receive(authorities.other) as receiver,
            pool(tls=authorities.board, callback_system_roots=system_roots) as ours,
        ):
            assert await ours.exchange(receiver.origin, REQUEST) == Unreachable(Failure.TLS)

    run(story)


def test_the_machines_authorities_are_trusted_when_that_is_set_beside_our_own(run, authorities, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities.other_ca))

    async def story() -> None:
        settings = {"tls": authorities.board}
        async with receive(authorities.other) as other, receive(authorities.ours) as ours:
            async with pool(**settings) as strict:
                assert await strict.exchange(other.origin, REQUEST) == Unreachable(Failure.TLS)
            async with pool(**settings, callback_system_roots=True) as wide:
                assert await wide.exchange(other.origin, REQUEST) == TOLD
                assert await wide.exchange(ours.origin, REQUEST) == TOLD

    run(story)


def test_a_board_without_tls_trusts_the_machines_authorities(run, authorities, monkeypatch):
    async def story() -> None:
        async with receive(authorities.other) as receiver:
            async with pool() as before:
                assert await before.exchange(receiver.origin, REQUEST) == Unreachable(Failure.TLS)
            monkeypatch.setenv("SSL_CERT_FILE", str(authorities.other_ca))
            async with pool() as after:
                assert await after.exchange(receiver.origin, REQUEST) == TOLD
            assert receiver.peers == [None]

    run(story)


def test_a_certificate_of_another_name_is_refused(run, authorities):
    async def story() -> None:
        async with receive(authorities.ours, "elsewhere") as receiver, pool(tls=authorities.board) as ours:
            assert await ours.exchange(receiver.origin, REQUEST) == Unreachable(Failure.TLS)

    run(story)


def test_a_receiver_that_does_not_trust_our_certificate(run, authorities):
    async def story() -> None:
        async with (
            receive(authorities.ours, clients=authorities.other) as receiver,
            pool(tls=authorities.board) as ours,
        ):
            # In TLS 1.3 the client learns of it only when it reads, and the alert may be lost in the reset after it.
            answer = await ours.exchange(receiver.origin, REQUEST)
            assert answer in {Unreachable(Failure.TLS), Unreachable(Failure.RESET)}

    run(story)


def test_tls_1_2_is_the_oldest(authorities, run):
    assert callback_context(authorities.board, system_roots=False).minimum_version is ssl.TLSVersion.TLSv1_2
    assert callback_context(None, system_roots=True).minimum_version is ssl.TLSVersion.TLSv1_2

    async def story() -> None:
        # trustme's certificates are ECDSA ones: receivers outside of the cluster may have any.
        async with receive(authorities.ours, maximum_version=ssl.TLSVersion.TLSv1_2) as receiver:
            async with pool(tls=authorities.board) as ours:
                assert await ours.exchange(receiver.origin, REQUEST) == TOLD
            assert receiver.versions == ["TLSv1.2"]

    run(story)


def test_certificates_are_followed_without_a_restart(run, authorities):
    files = authorities.files("renewed", authorities.ours.issue_cert("old.internal"))
    times = iter(range(0, 100, 10))

    class Clock(SystemClock):
        def monotonic(self) -> float:
            return float(next(times))

    async def story() -> None:
        async with receive(authorities.ours, clients=authorities.ours) as receiver:
            dialler = Dialler(BoardSettings(tls=files), Clock())
            for name in ("new.internal", None):
                made = Pool(dialler)
                assert await made.exchange(receiver.origin, REQUEST) == TOLD
                await made.close()
                if name is not None:
                    authorities.files("renewed", authorities.ours.issue_cert(name))
        names = [dict(peer["subjectAltName"])["DNS"] for peer in receiver.peers if peer is not None]
        assert names == ["old.internal", "new.internal"]

    run(story)


def test_files_that_cannot_be_used_are_told(run, tmp_path):
    missing = TlsFiles(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")

    async def story() -> None:
        with capture_logs() as lines:
            async with pool(tls=missing) as ours:
                assert await ours.exchange(Origin(True, "127.0.0.1", 1), REQUEST) == Unreachable(Failure.TLS)
        assert [line["event"] for line in lines] == ["callback.trust.unusable"]

    run(story)


def test_plain_text_where_tls_is_expected(run, authorities):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)
        await reader.read()

    async def story() -> None:
        async with listening(talk) as port, pool(tls=authorities.board) as ours:
            assert await ours.exchange(Origin(True, "127.0.0.1", port), REQUEST) == Unreachable(Failure.TLS)

    run(story)


def test_a_handshake_that_is_not_answered_is_no_connection_in_time(run, authorities):
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            origin = Origin(True, "127.0.0.1", listening.getsockname()[1])
            async with pool(tls=authorities.board, callback_connect_seconds=0.1) as ours:
                assert await ours.exchange(origin, REQUEST) == Unreachable(Failure.DIAL_TIMEOUT)

    run(story)


# -- names -------------------------------------------------------------------------------------------------------


def answering(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> list[str]:
    """Make a name server of ours; returns whom it was asked for."""
    asked: list[str] = []

    def getaddrinfo(name: str, *_args: Any, **_kwargs: Any) -> list[Any]:
        asked.append(name)
        if name not in names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in names[name]]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", getaddrinfo)
    return asked


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        writer.write(ANSWER)


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "fd00:ec2::254"]
)
def test_a_name_for_a_denied_address_is_not_called(run, monkeypatch, address):
    answering(monkeypatch, {"innocent.example": [address]})

    async def story() -> None:
        async with pool() as ours:
            with capture_logs() as lines:
                answer = await ours.exchange(Origin(False, "innocent.example", 80), REQUEST)
        assert answer == Unreachable(Failure.NOT_ALLOWED)
        assert [(line["event"], line["origin"], line["addresses"]) for line in lines] == [
            ("callback.destination.denied", "http://innocent.example:80", [address])
        ]

    run(story)


def test_of_several_addresses_the_denied_ones_are_left_out(run, monkeypatch):
    answering(monkeypatch, {"h": ["169.254.1.1", "127.0.0.1"]})

    async def story() -> None:
        async with listening(answer_all) as port, pool() as ours:
            assert await ours.exchange(Origin(False, "h", port), REQUEST) == TOLD

    run(story)


def test_a_name_is_looked_up_once_for_the_address_that_is_judged_and_dialled(run, monkeypatch):
    # Another answer each time, the way to get round a rule that judges one answer and dials another.
    turns = iter(["127.0.0.1", "169.254.169.254", "169.254.169.254"])
    monkeypatch.setattr(
        resolving.socket,
        "getaddrinfo",
        lambda *_args, **_kwargs: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(turns), 0))],
    )

    async def story() -> None:
        async with listening(answer_all) as port, pool() as ours:
            assert await ours.exchange(Origin(False, "h", port), REQUEST) == TOLD
        assert next(turns) == "169.254.169.254"

    run(story)


def test_the_next_address_is_tried_when_one_refuses_or_is_silent(run, monkeypatch):
    monkeypatch.setattr("bulletin.board.dialling._ADDRESS_SECONDS_MIN", 0.05)
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):  # a full queue of connections: the kernel answers no more
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))
            fillers.append(filler)
        answering(monkeypatch, {"h": ["127.0.0.3", "127.0.0.2", "127.0.0.1"]})

        async def story() -> None:
            async with listening(answer_all, port=port), pool(callback_connect_seconds=0.6) as ours:
                assert await ours.exchange(Origin(False, "h", port), REQUEST) == TOLD

        run(story)
        for filler in fillers:
            filler.close()


def test_one_lookup_serves_all_and_its_answer_the_next(run, monkeypatch):
    asked = answering(monkeypatch, {"h": ["127.0.0.1", "127.0.0.1", "127.0.0.2"]})

    async def story() -> None:
        resolver = Resolver()
        answers = await asyncio.gather(*(resolver.lookup("h") for _ in range(20)))
        assert set(answers) == {("127.0.0.1", "127.0.0.2")}
        assert await resolver.lookup("h") == ("127.0.0.1", "127.0.0.2")
        assert asked == ["h"]
        for address in ("127.0.0.9", "::1"):
            assert await resolver.lookup(address) == (address,)
        assert asked == ["h"]

    run(story)


def test_a_failed_lookup_is_not_remembered(run, monkeypatch):
    names: dict[str, list[str]] = {}
    asked = answering(monkeypatch, names)

    async def story() -> None:
        resolver = Resolver()
        with pytest.raises(OSError, match="unknown"):
            await resolver.lookup("h")
        names["h"] = ["127.0.0.1"]
        assert await resolver.lookup("h") == ("127.0.0.1",)
        assert asked == ["h", "h"]

    run(story)


def test_what_is_kept_of_names_is_bounded_in_number_and_time(run, monkeypatch):
    monkeypatch.setattr(resolving, "_NAMES_KEPT_MAX", 2)
    many = [f"127.0.0.{number}" for number in range(1, 20)]
    asked = answering(monkeypatch, {"a": ["127.0.0.1"], "b": ["127.0.0.1"], "c": many})

    async def story() -> None:
        resolver = Resolver()
        for name in ("a", "b", "c", "b", "a"):
            await resolver.lookup(name)
        assert asked == ["a", "b", "c", "a"]
        assert len(await resolver.lookup("c")) == limits.CALLBACK_ADDRESSES_MAX
        monkeypatch.setattr(resolving, "_KEPT_SECONDS", -1.0)
        await resolver.lookup("b")
        await resolver.lookup("b")
        assert asked == ["a", "b", "c", "a", "b", "b"]

    run(story)


def test_a_name_server_that_keeps_silent_delays_no_other_name(run, monkeypatch):
    monkeypatch.setattr(limits, "CALLBACK_LOOKUPS_MAX", 30)
    silence = threading.Event()

    def getaddrinfo(name: str, *_args: Any, **_kwargs: Any) -> list[Any]:
        if name != "good":
            silence.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(resolving.socket, "getaddrinfo", getaddrinfo)

    async def story() -> None:
        resolver = Resolver()
        waiting = [asyncio.ensure_future(resolver.lookup(f"bad{number}")) for number in range(29)]
        await asyncio.sleep(0)
        assert await resolver.lookup("good") == ("127.0.0.1",)
        waiting.append(asyncio.ensure_future(resolver.lookup("bad29")))
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="too many"):
            await resolver.lookup("one more")
        waiting[0].cancel()  # who gives up leaves the lookup to the others
        silence.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes[1:]} == {socket.gaierror}

    run(story)
