"""Certificates as they are made, read back by another hand and tried by OpenSSL."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from bulletin.trust.authority import (
    AUTHORITY_DAYS,
    Authority,
    Certificate,
    Issued,
    Purpose,
    make_authority,
    read_certificate,
)
from bulletin.trust.contexts import TrustError
from bulletin.wire.routes import Role

NOW = dt.datetime(2026, 11, 1, 12, tzinfo=dt.UTC)
HOSTS = ("board.example.com", "10.0.0.5", "::1", "*.boards.example.com", "UPPER.example")


@pytest.fixture(scope="module", params=["ecdsa", "rsa"])
def key_kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(key_kind) -> Issued:
    return make_authority("Test authority", NOW, key_kind=key_kind)


@pytest.fixture(scope="module")
def authority(made) -> Authority:
    return Authority(made.cert, made.key)


@pytest.fixture(scope="module")
def plain_authority() -> Authority:
    made = make_authority("Plain", NOW)
    return Authority(made.cert, made.key)


def issue_board(authority: Authority, **fields) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue("board", Purpose.BOARD, NOW, hosts=HOSTS, **fields).cert)


def usages(cert: x509.Certificate) -> set:
    return set(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


# -- what is made ---------------------------------------------------------------------------------------------------


def test_an_authority_signs_ends_only(made, key_kind):
    cert = x509.load_pem_x509_certificate(made.cert)
    constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = cert.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert cert.not_valid_after_utc == NOW + dt.timedelta(days=AUTHORITY_DAYS)
    assert isinstance(cert.public_key(), ec.EllipticCurvePublicKey if key_kind == "ecdsa" else rsa.RSAPublicKey)


def test_a_boards_certificate_serves_and_calls_and_has_no_role(authority, made, key_kind):
    cert = issue_board(authority, key_kind=key_kind)
    assert usages(cert) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "board.example.com",
        "*.boards.example.com",
        "upper.example",
    ]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.0.0.5"), ipaddress.ip_address("::1")]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert cert.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment == (key_kind == "rsa")
    assert read_certificate(cert.public_bytes(Encoding.PEM)).roles == frozenset()
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(made.cert))


@given(st.frozensets(st.sampled_from(Role), min_size=1), st.from_regex(r"[A-Za-z0-9 _:@.-]{1,64}", fullmatch=True))
def test_a_peers_certificate_only_calls_and_says_its_roles(plain_authority, roles, name):
    issued = plain_authority.issue(name, Purpose.PEER, NOW, roles=roles)
    read = read_certificate(issued.cert)
    assert (read.name, read.roles, read.hosts) == (name, roles, ())
    assert (read.may_serve, read.may_call, read.purpose) == (False, True, Purpose.PEER)
    assert usages(read.raw) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    assert read.has_key(issued.key)
    assert read.is_issued_by(plain_authority.certificate)


def test_certificates_are_good_from_before_now_for_a_year(authority):
    cert = issue_board(authority)
    assert NOW - dt.timedelta(hours=1) == cert.not_valid_before_utc
    assert cert.not_valid_after_utc == NOW + dt.timedelta(days=365)


def test_no_certificate_outlives_its_authority(authority):
    end = authority.certificate.not_after
    cert = authority.issue("c", Purpose.PEER, end - dt.timedelta(days=3), roles=[Role.CELL], days=365).cert
    assert read_certificate(cert).not_after == end


def test_each_certificate_is_its_own(authority):
    first, second = (issue_board(authority) for _ in range(2))
    assert first.serial_number != second.serial_number
    assert first.public_key() != second.public_key()


def test_openssl_takes_them(authority, made, tmp_path, key_kind):
    issued = authority.issue("board", Purpose.BOARD, NOW, hosts=["localhost"], key_kind=key_kind)
    for name, content in (("cert", issued.cert), ("key", issued.key)):
        (tmp_path / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    context.load_verify_locations(cadata=made.cert.decode())


# -- renewing -------------------------------------------------------------------------------------------------------


def test_a_renewed_certificate_says_the_same_of_the_same_key(authority, key_kind):
    later = NOW + dt.timedelta(days=300)
    for old in (
        authority.issue("board", Purpose.BOARD, NOW, hosts=HOSTS, key_kind=key_kind),
        authority.issue("c1", Purpose.PEER, NOW, roles=[Role.CELL, Role.CLIENT]),
    ):
        before, after = read_certificate(old.cert), read_certificate(authority.renew(old.cert, later))
        assert after.has_key(old.key)
        assert after.serial != before.serial
        assert after.not_after == later + dt.timedelta(days=365)
        for field in ("name", "roles", "hosts", "may_serve", "may_call", "key_kind"):
            assert getattr(after, field) == getattr(before, field)


def test_only_ones_own_are_renewed(authority, plain_authority, made):
    stranger = plain_authority.issue("c1", Purpose.PEER, NOW, roles=[Role.CELL])
    with pytest.raises(TrustError, match="was not issued by 'Test authority'"):
        authority.renew(stranger.cert, NOW)
    with pytest.raises(TrustError, match="was not issued by"):
        authority.renew(made.cert, NOW)  # itself


# -- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "must have 1 to 64 characters"),
        ({"name": "x" * 65}, "must have 1 to 64 characters"),
        ({"name": "a\nb"}, "that can be printed"),
        ({"roles": []}, "has roles"),
        ({"hosts": ["h"]}, "no hosts unless"),
        ({"purpose": Purpose.BOARD}, "has no role"),
        ({"purpose": Purpose.BOARD, "roles": []}, "the hosts it is reached by"),
        ({"days": 0}, "days: must be from 1"),
        ({"days": AUTHORITY_DAYS + 1}, "days: must be from 1"),
        ({"now": NOW + dt.timedelta(days=AUTHORITY_DAYS)}, "has expired"),
    ],
)
def test_what_cannot_be_issued(plain_authority, fields, text):
    wanted = {"name": "n", "purpose": Purpose.PEER, "now": NOW, "roles": [Role.CLIENT]} | fields
    with pytest.raises(TrustError, match=text):
        plain_authority.issue(wanted.pop("name"), wanted.pop("purpose"), wanted.pop("now"), **wanted)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a b",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "*",
        "*.",
        "a.*",
        "http://a",
        "a:1",
        "ä.example",
        "1.2.3.4/8",
        "a" * 64,
    ],
)
def test_what_is_no_host(plain_authority, host):
    with pytest.raises(TrustError, match="is neither a host name nor an address"):
        plain_authority.issue("b", Purpose.BOARD, NOW, hosts=[host])


def test_what_is_no_authority(made, authority, plain_authority):
    with pytest.raises(TrustError, match="is not that of the authority"):
        Authority(made.cert, make_authority("Other", NOW).key)
    end = plain_authority.issue("c", Purpose.PEER, NOW, roles=[Role.CELL])
    with pytest.raises(TrustError, match="is not an authority's"):
        Authority(end.cert, end.key)
    with pytest.raises(TrustError, match="not a certificate"):
        Authority(b"nonsense", made.key)
    with pytest.raises(TrustError, match="not a private key"):
        Authority(made.cert, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


def test_a_key_of_another_kind_is_refused(made):
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TrustError, match="neither ECDSA nor RSA"):
        Authority(made.cert, key)


@given(st.binary(max_size=300))
def test_reading_nonsense_is_an_error_of_ours(junk):
    for content in (junk, b"-----BEGIN CERTIFICATE-----\n" + junk + b"\n-----END CERTIFICATE-----\n"):
        with pytest.raises(TrustError):
            read_certificate(content)


def test_a_certificate_that_says_nothing_about_its_use():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    from cryptography.hazmat.primitives.hashes import SHA256

    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    cert = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + dt.timedelta(1)).sign(key, SHA256())
    read: Certificate = read_certificate(cert.public_bytes(Encoding.PEM))
    assert (read.name, read.roles, read.hosts) == ("", frozenset(), ())
    assert (read.may_serve, read.may_call, read.is_authority) == (None, None, False)
