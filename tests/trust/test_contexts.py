"""TLS contexts: what files they take, what they say of others, who gets through, and how files are followed."""

from __future__ import annotations

import datetime as dt
import os
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from bulletin.trust.authority import Purpose
from bulletin.trust.contexts import ContextSource, TrustError, client_context, server_context
from bulletin.trust.directory import Order, create, renew
from bulletin.trust.files import TlsFiles
from bulletin.wire.routes import Role

NOW = dt.datetime.now(dt.UTC)


def make(directory: Path, key_kind="ecdsa"):
    orders = [
        Order("board", Purpose.BOARD, hosts=("localhost", "127.0.0.1")),
        Order("client", Purpose.PEER, frozenset({Role.CLIENT})),
    ]
    create(directory, orders, NOW, days=10, key_kind=key_kind)
    return lambda name: TlsFiles(directory / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make(tmp_path_factory.mktemp("contexts") / "certs")


@pytest.fixture
def own(tmp_path):
    """Files a test may spoil."""
    return make(tmp_path / "certs")


class Wire:
    """Two ends of TLS that talk through memory."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, host="localhost"):
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(up, down, server_side=True)
        self.client = client.wrap_bio(down, up, server_hostname=host)

    def shake_hands(self):
        done = set()
        for _ in range(10):
            for end in (self.client, self.server):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                done.add(end)
        assert done == {self.client, self.server}


def test_both_sides_see_each_other(shared):
    wire = Wire(server_context(shared("board")), client_context(shared("client")))
    wire.shake_hands()
    assert ((("commonName", "client"),)) in wire.server.getpeercert()["subject"]
    assert ((("commonName", "board"),)) in wire.client.getpeercert()["subject"]
    assert wire.client.version() == "TLSv1.3"


def test_the_server_wants_a_certificate(shared):
    nobody = client_context(None, shared("client").ca)
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        Wire(server_context(shared("board")), nobody).shake_hands()


def test_the_client_checks_the_name(shared):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        Wire(server_context(shared("board")), client_context(shared("client")), "elsewhere").shake_hands()


def test_a_common_name_is_no_host_name(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("someone@board.example", common_name="board.example")  # names no host
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(server)
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire(server, client_context(None, ca), "board.example").shake_hands()


def test_a_caller_cannot_serve(shared):
    """A client's or a cell's key, once stolen, does not make a board."""
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        Wire(server_context(shared("client")), client_context(shared("client"))).shake_hands()


def test_an_authority_in_the_middle_is_authority_enough(tmp_path):
    """As Go clients and servers see a file of authorities."""
    middle = trustme.CA().create_child_ca()
    issued = middle.issue_cert("localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(server)
    ca = tmp_path / "ca.pem"
    middle.cert_pem.write_to_path(str(ca))
    Wire(server, client_context(None, ca)).shake_hands()


def test_without_files_the_machine_is_trusted():
    context = client_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_only_two_ciphers_of_tls_1_2(shared):
    for context in (server_context(shared("board")), client_context(shared("client"))):
        old = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
        assert old == {"ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"}
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_nothing_is_resumed(shared):
    wire = Wire(server_context(shared("board")), client_context(shared("client")))
    wire.shake_hands()
    wire.server.write(b"x")
    assert wire.client.read() == b"x"
    assert not wire.client.session.has_ticket


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_a_missing_file_is_named(own, which):
    files = own("board")
    getattr(files, which).unlink()
    with pytest.raises(TrustError, match=f"{getattr(files, which)}: .* cannot be found; `bulletin certs init`"):
        server_context(files)


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 100])
def test_what_is_not_pem_is_named(own, which, content):
    files = own("board")
    getattr(files, which).write_bytes(content)
    with pytest.raises(TrustError, match=f"{getattr(files, which)}: holds no PEM"):
        server_context(files)


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_spoilt_pem_is_an_error(own, which):
    path = getattr(own("board"), which)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "AAAA", lines[-1]]))
    with pytest.raises(TrustError, match=str(path)):
        server_context(own("board"))


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_a_directory_or_a_pipe_is_no_file(own, which):
    path = getattr(own("board"), which)
    path.unlink()
    path.mkdir()
    with pytest.raises(TrustError, match="is not a file"):
        server_context(own("board"))
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(TrustError, match="is not a file"):
        server_context(own("board"))


def test_a_file_that_is_too_long_is_refused(own):
    with own("board").ca.open("ab") as file:
        file.write(b"\n" * 5_000_000)
    with pytest.raises(TrustError, match="too many for PEM"):
        server_context(own("board"))


def test_the_key_of_another_is_refused(own):
    files = replace(own("board"), key=own("client").key)
    with pytest.raises(TrustError, match=r"client\.key: is not the key of .*board\.pem"):
        server_context(files)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(own):
    from cryptography.hazmat.primitives import serialization as pem

    path = own("board").key
    key = pem.load_pem_private_key(path.read_bytes(), None)
    for form in (pem.PrivateFormat.PKCS8, pem.PrivateFormat.TraditionalOpenSSL):
        path.write_bytes(key.private_bytes(pem.Encoding.PEM, form, pem.BestAvailableEncryption(b"secret")))
        with pytest.raises(TrustError, match="is encrypted"):
            server_context(own("board"))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o620, 0o660, 0o610, 0o777])
def test_a_key_that_others_may_touch_is_refused(own, mode):
    own("board").key.chmod(mode)
    with pytest.raises(TrustError, match=f"mode {mode:04o}.*chmod 0600"):
        server_context(own("board"))
    own("client").key.chmod(mode)
    with pytest.raises(TrustError, match="chmod 0600"):
        client_context(own("client"))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_key_of_its_owner_and_its_group_is_taken(own, mode):
    own("board").key.chmod(mode)
    server_context(own("board"))


def test_errors_never_hold_a_key(own):
    path = own("board").key
    secret = path.read_text().splitlines()[1]
    path.write_text(path.read_text().replace("PRIVATE KEY-----", "RSA PRIVATE KEY-----"))
    with pytest.raises(TrustError) as caught:
        server_context(own("board"))
    assert secret not in str(caught.value)


# -- following ------------------------------------------------------------------------------------------------------


class Following:
    def __init__(self, files):
        self.now = 0.0
        self.told = []
        self.source = ContextSource(
            files, server_context, lambda: self.now, lambda: self.told.append("renewed"), self.told.append
        )

    def after(self, seconds):
        self.now += seconds
        return self.source.get()


def test_files_that_stay_keep_their_context(own):
    following = Following(own("board"))
    first = following.source.get()
    assert following.after(100) is first
    assert following.told == []


def test_files_that_change_are_looked_at_once_a_second(own, tmp_path):
    following = Following(own("board"))
    first = following.source.get()
    renew(tmp_path / "certs", ["board"], NOW)
    assert following.after(0.9) is first
    second = following.after(0.2)
    assert second is not first
    assert following.told == ["renewed"]
    assert following.after(5) is second


@pytest.mark.parametrize("which", ["ca", "cert", "key"])
def test_files_that_cannot_be_used_leave_the_old_context(own, which):
    following = Following(own("board"))
    first = following.source.get()
    path = getattr(own("board"), which)
    good = path.read_bytes()
    path.unlink()
    assert following.after(2) is first
    assert following.after(2) is first
    assert len(following.told) == 1, "told once for one change"
    assert "cannot be found" in following.told[0]
    path.write_bytes(b"nonsense")
    path.chmod(0o600)
    assert following.after(2) is first
    assert len(following.told) == 2
    path.write_bytes(good)
    assert following.after(2) is not first
    assert following.told[2:] == ["renewed"]


def test_files_that_cannot_be_used_at_first_are_an_error(own):
    own("board").ca.unlink()
    with pytest.raises(TrustError):
        Following(own("board"))
