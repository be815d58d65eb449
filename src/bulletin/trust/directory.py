"""A directory of certificates: an authority, ``ca.pem`` and ``ca.key``, and ``NAME.pem`` with ``NAME.key`` for others.

The directory is its owner's alone (0700), and so is every file in it (0600). Nothing that is there is overwritten,
except a certificate that is renewed; files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bulletin.trust.authority import (
    AUTHORITY_DAYS,
    CERTIFICATE_DAYS,
    Authority,
    Certificate,
    Issued,
    KeyKind,
    Purpose,
    make_authority,
    read_certificate,
)
from bulletin.trust.contexts import TrustError
from bulletin.trust.files import TlsFiles
from bulletin.wire.routes import Role

__all__ = ["AUTHORITY", "Entry", "Order", "create", "issue", "load", "renew"]

#: The name of the authority's files.
AUTHORITY: Final = "ca"
#: What names a file of its own without surprises.
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_FILE_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Order:
    """A certificate that is wanted; see ``Authority.issue``."""

    name: str
    purpose: Purpose
    roles: frozenset[Role] = frozenset()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate of the directory, and what is wrong with it."""

    files: TlsFiles
    certificate: Certificate
    problems: tuple[str, ...]


def create(
    directory: Path, orders: Iterable[Order], now: dt.datetime, *, days: int, key_kind: KeyKind = "ecdsa"
) -> list[Entry]:
    """Make a directory with a new authority and its first certificates, all or nothing.

    Args:
        directory: not there yet, or empty.
        orders: the certificates besides the authority's.
        now: aware.
        days: how long those are good.
        key_kind: of all keys.

    Raises:
        TrustError: the directory is not empty or cannot be made, or an order cannot be.
    """
    if directory.is_symlink() or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
        raise TrustError(f"{directory}: is there and not empty; nothing is overwritten, so name another directory")
    made = make_authority("Bulletin authority", now, days=AUTHORITY_DAYS, key_kind=key_kind)
    authority = Authority(made.cert, made.key)
    pairs: dict[str, Issued] = {AUTHORITY: made}
    for order in orders:
        _check_name(order.name)
        if order.name in pairs:
            raise TrustError(f"{order.name}: stands twice; certificates of one directory have different names")
        pairs[order.name] = authority.issue(
            order.name, order.purpose, now, roles=order.roles, hosts=order.hosts, days=days, key_kind=key_kind
        )
    fresh = directory.with_name(f".{directory.name}.{secrets.token_hex(8)}")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        fresh.mkdir(mode=0o700)
        try:
            for name, pair in pairs.items():
                _write(fresh / f"{name}.key", pair.key)
                _write(fresh / f"{name}.pem", pair.cert)
            _sync(fresh)
            fresh.rename(directory)
        except BaseException:
            shutil.rmtree(fresh)
            raise
        _sync(directory.parent)
    except OSError as error:
        raise TrustError(f"{directory}: cannot be made: {error.strerror}") from error
    return load(directory, now)


def issue(
    directory: Path, order: Order, now: dt.datetime, *, days: int = CERTIFICATE_DAYS, key_kind: KeyKind = "ecdsa"
) -> Entry:
    """Add a certificate to the directory.

    Raises:
        TrustError: there is no authority, the name is taken, or the order cannot be.
    """
    authority = _authority(directory)
    _check_name(order.name)
    files = _files(directory, order.name)
    for path in (files.cert, files.key):
        if os.path.lexists(path):
            msg = f"{path}: is there already; choose another name, or `bulletin certs renew {directory} {order.name}`"
            raise TrustError(msg)
    pair = authority.issue(
        order.name, order.purpose, now, roles=order.roles, hosts=order.hosts, days=days, key_kind=key_kind
    )
    try:
        _add(files.key, pair.key)
        try:
            _add(files.cert, pair.cert)
        except BaseException:
            files.key.unlink()
            raise
        _sync(directory)
    except OSError as error:
        raise TrustError(f"{files.cert}: cannot be written: {error.strerror}") from error
    return _entry(files, authority.certificate, now)


def renew(directory: Path, names: Sequence[str], now: dt.datetime, *, days: int = CERTIFICATE_DAYS) -> list[Entry]:
    """Make new certificates for the same keys, in the place of the old ones.

    Raises:
        TrustError: one is not there, or is none of this authority; the others may have been renewed.
    """
    authority = _authority(directory)
    renewed = []
    for name in names:
        _check_name(name)
        files = _files(directory, name)
        cert = authority.renew(_read(files.cert), now, days=days)
        try:
            fresh = _fresh(files.cert)
            _write(fresh, cert)
            fresh.replace(files.cert)
            _sync(directory)
        except OSError as error:
            raise TrustError(f"{files.cert}: cannot be written: {error.strerror}") from error
        renewed.append(_entry(files, authority.certificate, now))
    return renewed


def load(directory: Path, now: dt.datetime) -> list[Entry]:
    """All certificates of the directory, the authority first; its key need not be there.

    Raises:
        TrustError: there is no authority, or a certificate cannot be read.
    """
    authority = _read_certificate(directory / f"{AUTHORITY}.pem")
    try:
        names = sorted(path.stem for path in directory.glob("*.pem") if path.stem != AUTHORITY)
    except OSError as error:
        raise TrustError(f"{directory}: cannot be read: {error.strerror}") from error
    return [_entry(_files(directory, name), authority, now) for name in (AUTHORITY, *names)]


def _authority(directory: Path) -> Authority:
    files = _files(directory, AUTHORITY)
    return Authority(_read(files.cert), _read(files.key))


def _files(directory: Path, name: str) -> TlsFiles:
    return TlsFiles(directory / f"{AUTHORITY}.pem", directory / f"{name}.pem", directory / f"{name}.key")


def _check_name(name: str) -> None:
    """Refuse what cannot be a file's name, or is the authority's."""
    if name == AUTHORITY:
        raise TrustError(f"{name}: is the authority; it is made anew with `bulletin certs init`")
    if not _FILE_NAME.fullmatch(name):
        raise TrustError(f"name: {name!r} must be letters, digits, dots, dashes and underscores: it names two files")


def _entry(files: TlsFiles, authority: Certificate, now: dt.datetime) -> Entry:
    certificate = _read_certificate(files.cert)
    problems = []
    if certificate.not_after <= now:
        problems.append("has expired")
    if certificate.not_before > now:
        problems.append("is not valid yet")
    if not certificate.is_issued_by(authority):
        problems.append("is of another authority")
    problems.extend(_key_problems(files, certificate))
    return Entry(files, certificate, tuple(problems))


def _key_problems(files: TlsFiles, certificate: Certificate) -> Iterable[str]:
    try:
        status = files.key.stat()
    except OSError:
        # Keys are moved to where they are used, and the authority's to a safe place; that is as it should be.
        return
    if status.st_mode & 0o077:
        yield "others may read its key"
    try:
        if not certificate.has_key(_read(files.key)):
            yield "has another key beside it"
    except TrustError:
        yield "has a key beside it that cannot be read"


def _read_certificate(path: Path) -> Certificate:
    try:
        return read_certificate(_read(path))
    except TrustError as error:
        text = str(error)
        raise TrustError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise TrustError(f"{path}: is not there; `bulletin certs init` makes a directory of certificates") from error
    except OSError as error:
        raise TrustError(f"{path}: cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    """A new file, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _add(path: Path, content: bytes) -> None:
    """A new file that is whole from the moment it is there.

    Raises:
        FileExistsError: something has that name.
    """
    fresh = _fresh(path)
    try:
        _write(fresh, content)
        os.link(fresh, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()


def _fresh(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
