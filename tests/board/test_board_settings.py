"""What an operator may set of a board: what is refused, and that no refusal shows a secret."""

from __future__ import annotations

import math

import pytest
import trustme

from bulletin.board.settings import Address, BoardSettings, SettingError
from bulletin.trust.files import TlsFiles

DATABASE = "postgresql://bulletin@db.example:5432/bulletin"


def refused(**settings) -> str:
    with pytest.raises(SettingError) as error:
        BoardSettings(**settings).check()
    return str(error.value)


@pytest.fixture
def tls(tmp_path) -> TlsFiles:
    authority = trustme.CA()
    cert = authority.issue_cert("board.example")
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "board.pem", tmp_path / "board.key")
    authority.cert_pem.write_to_path(files.ca)
    cert.cert_chain_pems[0].write_to_path(files.cert)
    cert.private_key_pem.write_to_path(files.key)
    files.key.chmod(0o600)
    return files


def test_the_defaults_are_fine():
    BoardSettings().check()


@pytest.mark.parametrize(
    "url",
    [
        DATABASE,
        "postgresql://db/bulletin",
        "postgres://u:p%40ss@[::1]:5432/b",
        "postgresql:///bulletin?host=/run/postgresql",
        "postgresql://a,b/c?passfile=/etc/bulletin/pgpass",
    ],
)
def test_a_database(url):
    BoardSettings(database=url).check()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "mysql://u:secret@h/d",
        "postgresql://u:secret@h:65536/d",
        "postgresql://u:secret@h:port/d",
        "postgresql://u:se/secret@h/d",
        "postgresql://u:secret@[h/d",
        "postgresql://u:secret@h",
        "postgresql://u:secret@h/",
        "postgresql://",
    ],
)
def test_no_database(url):
    text = refused(database=url)
    assert text.startswith("database: ")
    assert "secret" not in text
    assert "postgresql://USER@HOST:PORT/DATABASE" in text


def test_secrets_are_not_in_the_text_of_settings():
    settings = BoardSettings(database="postgresql://u:secret@h/d", encryption_keys={"a": "secret"})
    assert "secret" not in repr(settings)


def test_plain_http_is_for_loopback():
    there = Address("10.0.0.5", 8889)
    text = refused(listen=there)
    assert "--tls-ca" in text
    assert "--insecure-plain-http" in text
    BoardSettings(listen=there, insecure_plain_http=True).check()


def test_tls_may_be_reached_from_elsewhere(tls):
    BoardSettings(listen=Address("10.0.0.5", 8889), tls=tls).check()


def test_certificates_are_read(tls, tmp_path):
    missing = TlsFiles(tmp_path / "none.pem", tls.cert, tls.key)
    assert refused(tls=missing).startswith(f"tls: {missing.ca}: ")
    other = trustme.CA().issue_cert("board.example")
    other.private_key_pem.write_to_path(tls.key)
    assert "is not the key of" in refused(tls=tls)
    tls.key.chmod(0o644)
    assert "chmod 0600" in refused(tls=tls)


def test_keys():
    BoardSettings(encryption_keys={"a": "x", "l" * 127: "y"}, active_key_label="a").check()
    assert "not among the encryption keys ('a')" in refused(encryption_keys={"a": "x"}, active_key_label="b")
    assert "say which" in refused(encryption_keys={"a": "x", "b": "y"})
    assert "(none)" in refused(active_key_label="a")
    assert "1 to 127 bytes" in refused(encryption_keys={"": "x"}, active_key_label="")
    assert "1 to 127 bytes" in refused(encryption_keys={"ü" * 64: "x"}, active_key_label="ü" * 64)
    assert "the passphrase of 'a' is empty" in refused(encryption_keys={"a": ""}, active_key_label="a")


@pytest.mark.parametrize("name", ["callback_allow", "callback_deny"])
def test_networks(name):
    BoardSettings(**{name: ("10.0.0.0/8", "fd00::/8", "192.0.2.1", "::1")}).check()
    for wrong in ("10.0.0.1/8", "10.0.0.0/33", "example.com", "", "10.0.0.0/8,::/0"):
        assert refused(**{name: ("10.0.0.0/8", wrong)}).startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("lease_seconds", 0.1),
        ("lease_retry_seconds", 0),
        ("presence_ttl_seconds", 0),
        ("callback_workers", 0),
        ("max_task_retries", -1),
        ("event_ring_max", -1),
        ("kick_task_duration_seconds", -0.5),
        ("commit_retry_seconds", math.inf),
        ("callback_timeout_seconds", math.nan),
    ],
)
def test_ranges(name, wrong):
    text = refused(**{name: wrong})
    assert text.startswith(f"{name}: ")
    assert "or more" in text


def test_the_least_of_each_range_is_fine():
    BoardSettings(lease_seconds=0.5, lease_retry_seconds=0.01, max_task_retries=0, event_ring_max=0).check()
