"""Whether Go's ``net/url`` would parse a text as a URL with a scheme (board-api.md 5.5).

Clients see its verdict on ``root_fs``, so we give the same one; nothing else of URLs is decided here. Checked against
Go 1.26, with one difference, the specification's: a control character is refused in a fragment too.
"""

from __future__ import annotations

import re
from typing import Final

from bulletin.wire.addresses import parse_ipv6

__all__ = ["has_scheme_and_parses", "scheme_of"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")
#: A percent sign that two hexadecimal digits do not follow.
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_USERINFO: Final = re.compile(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_PORT: Final = re.compile(r"(?::[0-9]*)?")
#: Characters a host may hold as they are; beyond ASCII everything goes, and only such bytes may be escaped.
_HOST_CHARACTER: Final = r"A-Za-z0-9\-._~!$&'()*+,;=:\[\]<>\"\x80-\U0010ffff"
_HOST: Final = re.compile(rf"(?:[{_HOST_CHARACTER}]|%[89A-Fa-f][0-9A-Fa-f]|%25)*")
#: A zone may escape a space and what a host may hold unescaped besides.
_ZONE_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_ZONE_PLAIN: Final = re.compile(rf"[{_HOST_CHARACTER}]*")


def scheme_of(url: str) -> str:
    """The scheme of ``url`` as written, without the colon; empty when it has none."""
    match = _SCHEME.match(url)
    return match.group() if match else ""


def has_scheme_and_parses(url: str) -> bool:
    """Whether ``url`` parses and has a scheme."""
    scheme = scheme_of(url)
    if not scheme or _CONTROL.search(url):
        return False
    rest, _, fragment = url[len(scheme) + 1 :].partition("#")
    if _BAD_ESCAPE.search(fragment):
        return False
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        return True  # opaque, and not looked into
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        return _authority_parses(authority) and not _BAD_ESCAPE.search(slash + path)
    return not _BAD_ESCAPE.search(rest)


def _authority_parses(authority: str) -> bool:
    userinfo, _, host = authority.rpartition("@")
    if not _USERINFO.fullmatch(userinfo) or _BAD_ESCAPE.search(userinfo):
        return False
    opening = host.rfind("[")
    if opening > 0:
        return False
    if opening == 0:
        return _bracketed_parses(host)
    # Lists of hosts with ports are let through, so only what follows the last colon has to be a port.
    colon = host.rfind(":")
    if colon >= 0 and not _PORT.fullmatch(host[colon:]):
        return False
    return _HOST.fullmatch(host) is not None


def _bracketed_parses(host: str) -> bool:
    closing = host.rfind("]")
    if closing < 0 or not _PORT.fullmatch(host[closing + 1 :]):
        return False
    address, percent, zone = host[1:closing].partition("%25")
    if percent and not (zone and _zone_parses(zone)):
        return False
    # An address with an escape, or with a zone that is not introduced by one, is no address.
    return parse_ipv6(address) is not None


def _zone_parses(zone: str) -> bool:
    if _BAD_ESCAPE.search(zone):
        return False
    for match in _ZONE_ESCAPE.finditer(zone):
        byte = int(match.group(1), 16)
        if byte not in (0x20, 0x25) and not (byte < 0x80 and _ZONE_PLAIN.fullmatch(chr(byte))):
            return False
    return _ZONE_PLAIN.fullmatch(_ZONE_ESCAPE.sub("", zone)) is not None
