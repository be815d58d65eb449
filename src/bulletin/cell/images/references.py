"""What a ``root_fs`` URL names (cell.md 5.1), as values. Pure: text in, a reference or a reason out.

A docker URL is ``docker://[host[:port]]/<path>[#tag]``: its first ``#`` is read as ``:``, what follows the scheme is a
reference as the docker command line reads one. Its grammar is that of the distribution project's reference package:
no host means docker.io, one lone component means ``library/``, neither tag nor digest means ``latest``.

Known wart, kept because clients rely on it: a first component without a dot, a colon or the name ``localhost`` is no
host, so ``docker://busybox`` and ``docker:///busybox`` are the same image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

__all__ = [
    "DockerReference",
    "PreloadedReference",
    "Reference",
    "ReferenceInvalid",
    "parse_image_name",
    "parse_reference",
    "parse_rootfs",
]

_DEFAULT_DOMAIN: Final = "docker.io"
#: The name the default registry had once; still found in old scripts.
_LEGACY_DOMAIN: Final = "index.docker.io"
_DEFAULT_TAG: Final = "latest"
_OFFICIAL: Final = "library/"

#: Longer than any reference the grammar lets through: 255 for the name, 128 for a tag, 135 for a digest.
_TEXT_CHARACTERS_MAX: Final = 1024
_NAME_CHARACTERS_MAX: Final = 255
#: How much of a caller's text an error repeats.
_SHOWN_CHARACTERS_MAX: Final = 120

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}))?"
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_HEX = re.compile(r"[a-f0-9]+")
_HEX_CHARACTERS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}


class ReferenceInvalid(ValueError):
    """The text names no image; the message says why and is shown to users."""


@dataclass(frozen=True, slots=True)
class DockerReference:
    """An image of a registry; exactly one of ``tag`` and ``digest`` is set."""

    #: ``host[:port]`` of the registry.
    domain: str
    path: str
    tag: str = ""
    #: ``sha256:<hex>`` and the like.
    digest: str = ""

    @property
    def repository(self) -> str:
        """``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def name(self) -> str:
        """The one spelling of this reference, ``docker.io/library/busybox:latest``."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"

    @property
    def on_loopback(self) -> bool:
        """Whether the registry is this machine, as its name alone says."""
        host = self.domain.rsplit(":", 1)[0] if not self.domain.endswith("]") else self.domain
        if host == "localhost":
            return True
        try:
            return ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class PreloadedReference:
    """A root file system the operator laid on the cell under a name."""

    stack: str


Reference = DockerReference | PreloadedReference


def parse_rootfs(url: str) -> Reference:
    """Read a ``root_fs`` URL.

    Raises:
        ReferenceInvalid: it is none, or of a kind this cell does not know.
    """
    scheme, colon, rest = url.partition(":")
    if not url:
        raise ReferenceInvalid("no root file system was named")
    if not colon:
        raise ReferenceInvalid(f"root file system {_shown(url)} has no scheme, such as docker:// or preloaded:")
    match scheme.lower():
        case "docker":
            return _parse_docker_url(rest)
        case "preloaded":
            if not rest:
                raise ReferenceInvalid("preloaded: names no stack")
            return PreloadedReference(rest)
        case _:
            raise ReferenceInvalid(f"root file system scheme {_shown(scheme)} is not known here")


def parse_reference(text: str) -> DockerReference:
    """Read a reference as people write it: ``busybox``, ``example.com/team/app:1`` or a docker URL.

    Raises:
        ReferenceInvalid: it is none.
    """
    if text.lower().startswith("docker:"):
        return _parse_docker_url(text.partition(":")[2])
    return _parse_reference(text)


def parse_image_name(text: str) -> DockerReference:
    """Read a name to give an image, as ``parse_reference`` does.

    Raises:
        ReferenceInvalid: it is none, or carries a digest, which is never given but follows from the content.
    """
    reference = parse_reference(text)
    if reference.digest:
        raise ReferenceInvalid("an image is named by a tag; its digest follows from its content")
    return reference


def _parse_docker_url(rest: str) -> DockerReference:
    """``rest`` is what follows ``docker:``."""
    if not rest.startswith("//"):
        raise ReferenceInvalid(f"docker:{_cut(rest)} is no docker URL: docker:// is expected")
    text = rest[2:].replace("#", ":", 1)
    if "@" in text.partition("/")[0]:
        # The URL is not repeated: what stands before the @ may be a password.
        raise ReferenceInvalid(
            "a docker URL has no user name or password before its host (there are image_username and image_password);"
            " a digest stands behind a path, as in docker:///image@sha256:..."
        )
    return _parse_reference(text.removeprefix("/"))


def _parse_reference(text: str) -> DockerReference:
    if not text:
        raise ReferenceInvalid("the image reference is empty")
    if len(text) > _TEXT_CHARACTERS_MAX:
        raise ReferenceInvalid(f"invalid image reference {_shown(text)}: too long")
    if _IDENTIFIER.fullmatch(text):
        raise ReferenceInvalid(f"invalid image reference {_shown(text)}: 64 hexadecimal digits are an id, not a name")
    domain, remainder = _split_domain(text)
    if remainder.partition(":")[0] != remainder.partition(":")[0].lower():
        raise ReferenceInvalid(f"invalid image reference {_shown(text)}: repository name must be lowercase")
    found = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if found is None:
        raise ReferenceInvalid(f"invalid image reference {_shown(text)}: invalid reference format")
    if len(domain) + 1 + len(found["path"]) > _NAME_CHARACTERS_MAX:
        raise ReferenceInvalid(
            f"invalid image reference {_shown(text)}: repository name must not be more than 255 characters"
        )
    tag, digest = found["tag"] or "", found["digest"] or ""
    if tag and digest:
        raise ReferenceInvalid("Docker references with both a tag and digest are currently not supported")
    if digest:
        _check_digest(digest, text)
    elif not tag:
        tag = _DEFAULT_TAG
    return DockerReference(domain, found["path"], tag, digest)


def _split_domain(text: str) -> tuple[str, str]:
    """Split a reference into registry and the rest, filling in the defaults."""
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        domain, remainder = first, rest
    else:
        domain, remainder = _DEFAULT_DOMAIN, text
    if domain == _LEGACY_DOMAIN:
        domain = _DEFAULT_DOMAIN
    if domain == _DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _check_digest(digest: str, text: str) -> None:
    algorithm, _, value = digest.partition(":")
    characters = _HEX_CHARACTERS.get(algorithm)
    if characters is None:
        raise ReferenceInvalid(f"invalid image reference {_shown(text)}: unsupported digest algorithm")
    if len(value) != characters or not _HEX.fullmatch(value):
        raise ReferenceInvalid(f"invalid image reference {_shown(text)}: {algorithm} takes {characters} digits 0-9 a-f")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "…"


def _shown(text: str) -> str:
    """A caller's text as part of an error: short, on one line, with nothing a terminal would obey."""
    return ascii(_cut(text))
