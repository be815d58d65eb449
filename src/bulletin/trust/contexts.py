"""TLS contexts from files, with errors an operator can act on (board-api.md 1.1).

Both sides prove who they are; TLS 1.2 and 1.3; in 1.2 only the two ciphers of the reference, which need an RSA
certificate. No session is resumed in 1.3, so that every connection shows a certificate that is valid today.

A key that other users of the machine can read is refused: whoever has the board's key can run containers as root on
every cell. Its group may read it, as is usual for a key that belongs to root and is used by a service.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bulletin.trust.files import TlsFiles

__all__ = ["ContextSource", "TrustError", "client_context", "server_context"]

#: The two ciphers of the reference for TLS 1.2; those of 1.3 are not chosen here.
CIPHERS_TLS12: Final = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"
#: A certificate with its chain, or all authorities of a machine, take some hundred kB at most.
_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
#: Others may not touch the key at all, and its group may only read it.
_KEY_MODE_REFUSED: Final = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
_CHECK_SECONDS: Final = 1.0


class TrustError(OSError):
    """A certificate, a key or an authority cannot be used; the text names the file and what to do."""


def server_context(files: TlsFiles, kind: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    """The context of a server that talks only to peers with a certificate of ``files.ca``.

    Args:
        files: whom to trust and how to prove who we are.
        kind: the class of the context.

    Raises:
        TrustError: a file is missing or wrong, the key is not the certificate's or not private.
    """
    context = _context(kind(ssl.PROTOCOL_TLS_SERVER), files.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    _present(context, files.cert, files.key)
    return context


def client_context(files: TlsFiles | None, ca: Path | None = None) -> ssl.SSLContext:
    """The context of a client that checks the server's chain and its name or address.

    Args:
        files: whom to trust and how to prove who we are; None: no certificate of our own.
        ca: without ``files``, whom to trust; None: the machine's own authorities.

    Raises:
        TrustError: as ``server_context``.
    """
    context = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files.ca if files is not None else ca)
    # A name belongs into the subject alternative names; clients of the BBS look nowhere else.
    context.hostname_checks_common_name = False
    if files is not None:
        _present(context, files.cert, files.key)
    return context


class ContextSource:
    """A context that follows its files: certificates are renewed without a restart.

    The files are looked at when the context is asked for, once a second at most. While new ones cannot be used, the
    old context stays, and ``complain`` is told once for each change of the files.

    Args:
        files: what to follow.
        make: ``server_context`` or ``client_context``.
        monotonic: seconds that never go back.
        renewed: called after a change of the files was taken over.
        complain: called with the reason when it could not be.

    Raises:
        TrustError: the files cannot be used now.
    """

    def __init__(
        self,
        files: TlsFiles,
        make: Callable[[TlsFiles], ssl.SSLContext],
        monotonic: Callable[[], float],
        renewed: Callable[[], None],
        complain: Callable[[str], None],
    ) -> None:
        self._files = files
        self._make = make
        self._monotonic = monotonic
        self._renewed = renewed
        self._complain = complain
        # Looked at before the files are read: a change in between is seen as one the next time.
        self._seen = _look(files)
        self._context = make(files)
        self._look_at = monotonic() + _CHECK_SECONDS

    def get(self) -> ssl.SSLContext:
        """The context of the files as they are, or as they last could be used."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + _CHECK_SECONDS
            seen = _look(self._files)
            if seen != self._seen:
                self._seen = seen
                self._renew()
        return self._context

    def _renew(self) -> None:
        try:
            self._context = self._make(self._files)
        except TrustError as error:
            self._complain(str(error))
        else:
            self._renewed()


def _look(files: TlsFiles) -> tuple[tuple[int, int, int] | None, ...]:
    """What tells a changed file from the old one: a renewal by rename changes the inode, one in place the time."""
    seen: list[tuple[int, int, int] | None] = []
    for path in (files.ca, files.cert, files.key):
        try:
            status = path.stat()
        except OSError:
            seen.append(None)
        else:
            seen.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(seen)


def _context(context: ssl.SSLContext, ca: Path | None) -> ssl.SSLContext:
    """Set what both sides have in common."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_TLS12)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Every certificate in the file is an anchor, an intermediate authority too, as Go clients and servers see it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca is None:
        context.load_default_certs()
        return context
    pem = _read(ca, "the authorities")
    if "-----BEGIN CERTIFICATE-----" not in pem:
        raise TrustError(f"{ca}: holds no PEM certificate; the authorities are a file such as ca.pem")
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise TrustError(f"{ca}: holds a certificate that cannot be read: {_reason(error)}") from error
    return context


def _present(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Give the context a certificate of its own."""
    if "-----BEGIN CERTIFICATE-----" not in _read(cert, "the certificate"):
        raise TrustError(f"{cert}: holds no PEM certificate")
    pem = _read(key, "the key", private=True)
    if "PRIVATE KEY-----" not in pem:
        raise TrustError(f"{key}: holds no PEM private key")
    if "ENCRYPTED" in pem:
        raise TrustError(f"{key}: is encrypted, and nobody is here to type its passphrase; store it unencrypted, 0600")
    try:
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{key}: is not the key of {cert}; give the two files that were made together"
        else:
            text = f"{cert} with {key}: cannot be used: {_reason(error)}"
        raise TrustError(text) from error
    except OSError as error:
        raise TrustError(f"{cert} with {key}: cannot be read: {error.strerror}") from error


def _read(path: Path, what: str, *, private: bool = False) -> str:
    """The text of a file of bounded size; PEM is ASCII, and comments around it may be anything."""
    try:
        # Not blocking: a named pipe in the file's place must not stop a start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            data = os.read(descriptor, _FILE_BYTES_MAX + 1) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise TrustError(f"{path}: {what} cannot be found; `bulletin certs init` makes a set") from error
    except OSError as error:
        raise TrustError(f"{path}: {what} cannot be read: {error.strerror}") from error
    if data is None:
        raise TrustError(f"{path}: is not a file")
    if private and status.st_mode & _KEY_MODE_REFUSED:
        mode = stat.S_IMODE(status.st_mode)
        raise TrustError(f"{path}: others may read or change this key (mode {mode:04o}); chmod 0600 {path}")
    if len(data) > _FILE_BYTES_MAX:
        raise TrustError(f"{path}: has more than {_FILE_BYTES_MAX} bytes, too many for PEM")
    return data.decode("ascii", "replace")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return str(error)
