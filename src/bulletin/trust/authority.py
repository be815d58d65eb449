"""A certificate authority of one's own: makes the certificates of boards, cells, clients and operators.

What a certificate is for stands in it and nowhere else: a board's may serve and call (its callbacks), everybody
else's may only call; roles are organizational units of the subject (design promise S14). A board's certificate has
no role, so that whoever steals it cannot use it on another board.

Keys are ECDSA on P-256: what a stranger can make a board do, the first half of a handshake, costs half the processor
time it takes with RSA-2048 (measured: 0.4 and 0.7 ms), and the whole of it a little less. RSA is for peers that only
speak TLS 1.2, whose two ciphers need it on the board (board-api.md 1.1).

Nothing is revoked here, so a leaked key is good until its certificate ends: hence a year, and renewal by one command
without a restart. The authority lasts ten years: to replace it, every machine has to be visited twice.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bulletin.trust.contexts import TrustError
from bulletin.trust.subjects import NAME_CHARACTERS_MAX, read_subject
from bulletin.wire.routes import Role

__all__ = [
    "AUTHORITY_DAYS",
    "CERTIFICATE_DAYS",
    "Authority",
    "Certificate",
    "Issued",
    "KeyKind",
    "Purpose",
    "make_authority",
    "read_certificate",
]

#: ``ecdsa`` or ``rsa``; the module says when.
KeyKind: TypeAlias = Literal["ecdsa", "rsa"]
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 365
#: Clocks of two machines may differ by so much; a new certificate is good everywhere at once.
_CLOCK_SKEW: Final = dt.timedelta(hours=1)
_RSA_BITS: Final = 2048
_ORGANIZATION: Final = "Bulletin"
#: A host name (RFC 1123), which may begin with the wildcard of certificates.
_HOST_CHARACTERS_MAX: Final = 253
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


class Purpose(Enum):
    """What a certificate is for."""

    #: Serves, and calls the receivers of callbacks.
    BOARD = "board"
    #: Calls a board, in one role or several.
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate and its key."""

    #: PEM; the authority's own certificate is not in it.
    cert: bytes
    #: PKCS #8, PEM, not encrypted.
    key: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says."""

    #: The common name.
    name: str
    roles: frozenset[Role]
    #: Host names and addresses it is good for as a server.
    hosts: tuple[str, ...]
    is_authority: bool
    #: None: it does not say, so that it may do both.
    may_serve: bool | None
    may_call: bool | None
    key_kind: str
    not_before: dt.datetime
    not_after: dt.datetime
    serial: int
    raw: x509.Certificate

    @property
    def purpose(self) -> Purpose:
        """What it is for."""
        return Purpose.BOARD if self.may_serve else Purpose.PEER

    def is_issued_by(self, authority: Certificate) -> bool:
        """Whether ``authority`` has signed it."""
        try:
            self.raw.verify_directly_issued_by(authority.raw)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def has_key(self, key: bytes) -> bool:
        """Whether ``key``, a private one in PEM, is its own.

        Raises:
            TrustError: it is no key.
        """
        return _load_key(key).public_key() == self.raw.public_key()


class Authority:
    """An authority whose key is here.

    Args:
        cert: PEM.
        key: PEM, not encrypted.

    Raises:
        TrustError: they are no authority and its key.
    """

    def __init__(self, cert: bytes, key: bytes) -> None:
        self.certificate = read_certificate(cert)
        if not self.certificate.is_authority:
            raise TrustError(f"the certificate of {self.certificate.name!r} is not an authority's")
        if not self.certificate.has_key(key):
            raise TrustError(f"the key is not that of the authority {self.certificate.name!r}")
        self._key = _load_key(key)

    def issue(
        self,
        name: str,
        purpose: Purpose,
        now: dt.datetime,
        *,
        roles: Iterable[Role] = (),
        hosts: Sequence[str] = (),
        days: int = CERTIFICATE_DAYS,
        key_kind: KeyKind = "ecdsa",
    ) -> Issued:
        """Make a key and a certificate for it.

        Args:
            name: whose it is; a cell's is its id.
            purpose: what it is for.
            now: aware.
            roles: what a peer may do; a board's certificate has none.
            hosts: names and addresses a board is reached by; no one else is.
            days: how long it is good, at most as long as the authority.
            key_kind: see the module.

        Raises:
            TrustError: name, roles, hosts or days cannot be.
        """
        role_names = sorted(role.value for role in roles)
        if purpose is Purpose.BOARD and (role_names or not hosts):
            raise TrustError(f"{name}: a board's certificate has no role, and the hosts it is reached by")
        if purpose is Purpose.PEER and (hosts or not role_names):
            raise TrustError(f"{name}: a certificate has roles, and no hosts unless it is a board's")
        subject = _name(name, role_names)
        key = _make_key(key_kind)
        cert = self._sign(subject, purpose, _alternatives(hosts), key.public_key(), now, days)
        return Issued(cert, _save_key(key))

    def renew(self, cert: bytes, now: dt.datetime, *, days: int = CERTIFICATE_DAYS) -> bytes:
        """A new certificate for the same key that says the same, as PEM; so only one file changes.

        Raises:
            TrustError: it is not one of this authority.
        """
        old = read_certificate(cert)
        if old.is_authority or not old.is_issued_by(self.certificate):
            raise TrustError(f"the certificate of {old.name!r} was not issued by {self.certificate.name!r}")
        return self._sign(old.raw.subject, old.purpose, _alternatives(old.hosts), _public_key(old.raw), now, days)

    def _sign(
        self,
        subject: x509.Name,
        purpose: Purpose,
        alternatives: list[x509.GeneralName],
        public_key: PublicKey,
        now: dt.datetime,
        days: int,
    ) -> bytes:
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if purpose is Purpose.BOARD:
            usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            _builder(subject, self.certificate.raw.subject, public_key, now, _end(now, days, self.certificate))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                _key_usage(digital_signature=True, key_encipherment=isinstance(public_key, rsa.RSAPublicKey)),
                critical=True,
            )
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_authority_key_identifier(self.certificate.raw), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_authority(name: str, now: dt.datetime, *, days: int = AUTHORITY_DAYS, key_kind: KeyKind = "ecdsa") -> Issued:
    """A new authority, whose certificates are ends: it makes no authorities below it.

    Raises:
        TrustError: name or days cannot be.
    """
    key = _make_key(key_kind)
    subject = _name(name, [])
    builder = (
        _builder(subject, subject, key.public_key(), now, _end(now, days, None))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return Issued(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), _save_key(key))


def read_certificate(pem: bytes) -> Certificate:
    """The first certificate in ``pem``.

    Raises:
        TrustError: there is none that can be read.
    """
    try:
        raw = x509.load_pem_x509_certificate(pem)
        subject = read_subject(
            [[(_LONG_NAMES.get(part.oid, ""), str(part.value)) for part in rdn] for rdn in raw.subject.rdns]
        )
        constraints = _extension(raw, x509.BasicConstraints)
        usages = _extension(raw, x509.ExtendedKeyUsage)
        alternatives = _extension(raw, x509.SubjectAlternativeName)
        public_key = raw.public_key()
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise TrustError(f"not a certificate in PEM: {error}") from error
    return Certificate(
        name=subject.name,
        roles=subject.roles,
        hosts=_hosts(alternatives),
        is_authority=constraints is not None and constraints.ca,
        may_serve=None if usages is None else ExtendedKeyUsageOID.SERVER_AUTH in usages,
        may_call=None if usages is None else ExtendedKeyUsageOID.CLIENT_AUTH in usages,
        key_kind=_tell_kind(public_key),
        not_before=raw.not_valid_before_utc,
        not_after=raw.not_valid_after_utc,
        serial=raw.serial_number,
        raw=raw,
    )


_LONG_NAMES: Final = {NameOID.COMMON_NAME: "commonName", NameOID.ORGANIZATIONAL_UNIT_NAME: "organizationalUnitName"}


def _tell_kind(public_key: object) -> str:
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return "ecdsa"
    return "rsa" if isinstance(public_key, rsa.RSAPublicKey) else "other"


def _extension(raw: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return raw.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _hosts(alternatives: x509.SubjectAlternativeName | None) -> tuple[str, ...]:
    if alternatives is None:
        return ()
    names = alternatives.get_values_for_type(x509.DNSName)
    addresses = alternatives.get_values_for_type(x509.IPAddress)
    return (*names, *(str(address) for address in addresses))


def _alternatives(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Subject alternative names of host names and addresses, each once.

    Raises:
        TrustError: one is neither.
    """
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if len(host) > _HOST_CHARACTERS_MAX or not _HOST.fullmatch(host):
                msg = f"{host!r} is neither a host name nor an address; write for example board.example.com or 10.0.0.5"
                raise TrustError(msg) from None
            found.append(x509.DNSName(host.lower()))
    return found


def _name(name: str, organizational_units: Iterable[str]) -> x509.Name:
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX or not name.isprintable():
        msg = f"name: {name!r} must have 1 to {NAME_CHARACTERS_MAX} characters that can be printed; X.509 takes no more"
        raise TrustError(msg)
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in organizational_units),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _end(now: dt.datetime, days: int, authority: Certificate | None) -> dt.datetime:
    """When a certificate ends: no later than its authority."""
    if not 1 <= days <= AUTHORITY_DAYS:
        raise TrustError(f"days: must be from 1 to {AUTHORITY_DAYS}, not {days}")
    end = now + dt.timedelta(days=days)
    if authority is None:
        return end
    if authority.not_after <= now:
        raise TrustError(f"the authority {authority.name!r} has expired; make a new one with `bulletin certs init`")
    return min(end, authority.not_after)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: PublicKey, now: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = _extension(authority, x509.SubjectKeyIdentifier)
    if own is not None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(_public_key(authority))


def _public_key(certificate: x509.Certificate) -> PublicKey:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise TrustError("a certificate with a key that is neither ECDSA nor RSA cannot be used here")
    return key


def _make_key(kind: KeyKind) -> PrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65_537, key_size=_RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def _save_key(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(pem: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # OpenSSL's own words are left out: no part of a key may reach a log.
        raise TrustError("not a private key in PEM, or an encrypted one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise TrustError("the key is neither ECDSA nor RSA")
    return key
