"""Requests as an HTTP/1.1 client writes them (RFC 9112), for the completion callbacks (board-api.md section 8).

``Target.parse`` turns a URL into what is dialled and what is sent there, ``encode_request`` makes the bytes. Nothing of
a URL reaches the header but through here, percent-encoded, so that no URL can add a header or a request of its own.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

__all__ = ["Origin", "Target", "encode_request"]

_USER_AGENT: Final = "bulletin-board"
_PORTS: Final = {"http": 80, "https": 443}
#: Names as they are dialled. IDNA has made letters of other alphabets into these.
_NAME: Final = re.compile("[A-Za-z0-9_.-]{1,253}")
_IPV6: Final = re.compile("[0-9A-Fa-f:.]{2,45}")
_BRACKETED: Final = re.compile(r"\[[^\[\]]*:[^\[\]]*\](:[0-9]*)?")
#: Left as they are in a path and in a query (RFC 3986 3.3, 3.4, with what is escaped already).
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~"
_QUERY_SAFE: Final = "/%:@!$&'()*+,;=~?[]{}|\\^`"
#: Targets remembered: tasks of one client mostly name the same few URLs.
_TARGETS_REMEMBERED: Final = 1024
#: A longer URL is not worth its place.
_REMEMBERED_CHARACTERS_MAX: Final = 2048


class Origin(NamedTuple):
    """Whom a connection leads to, and so who may share it."""

    #: Whether TLS is spoken.
    tls: bool
    #: In lower case; an IPv6 address without brackets.
    host: str
    port: int

    def __str__(self) -> str:
        """For logs; holds no secret, unlike the URL it is of."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL asks for."""

    origin: Origin
    #: Origin-form: path and query, in ASCII.
    path: str
    #: The headers that come from the URL, each line ended.
    headers: str

    @staticmethod
    def parse(url: str) -> Target:
        """Read an http or https URL that names a host.

        Raises:
            ValueError: it is none, or its host is no name and no address. The text does not repeat it.
        """
        return _remembered(url) if len(url) <= _REMEMBERED_CHARACTERS_MAX else _parse(url)


def encode_request(method: str, target: Target, body: bytes | None) -> bytes:
    """The whole request; ``body`` is JSON, None: there is none."""
    head = f"{method} {target.path} HTTP/1.1\r\n{target.headers}"
    if body is None:
        return f"{head}\r\n".encode("ascii")
    head = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


def _parse(url: str) -> Target:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None  # the reason would repeat what may be secret
    default = _PORTS.get(parts.scheme)
    if default is None:
        raise ValueError("neither http nor https")
    userinfo, _, name = parts.netloc.rpartition("@")
    if "[" in name and not _BRACKETED.fullmatch(name):
        raise ValueError("not an address")  # urlsplit overlooks what stands around the brackets
    host = _host(parts.hostname or "")
    written = f"[{host}]" if ":" in host else host
    # As Go writes it: with the port if the URL has one, the default one too.
    headers = f"Host: {written}{'' if port is None else f':{port}'}\r\nUser-Agent: {_USER_AGENT}\r\n"
    if userinfo:
        user, _, password = userinfo.partition(":")
        credentials = base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode("ascii")
        headers += f"Authorization: Basic {credentials}\r\n"
    path = quote(parts.path, safe=_PATH_SAFE) or "/"
    if parts.query:
        path += "?" + quote(parts.query, safe=_QUERY_SAFE)
    return Target(Origin(parts.scheme == "https", host, default if port is None else port), path, headers)


_remembered = lru_cache(_TARGETS_REMEMBERED)(_parse)


def _host(host: str) -> str:
    if ":" in host:
        address, _, _ = host.partition("%")  # a scope means something on this machine only
        if _IPV6.fullmatch(address):
            return address
        raise ValueError("not an address")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("not a host name") from None
    if not _NAME.fullmatch(host):
        raise ValueError("not a host name")
    return host
