"""Files a container gets from the cell: its /etc/hosts, and those its definition brings (cell.md 5.5).

They lie in the bundle, in memory, and are shown to the container read-only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from bulletin.cell.runtime.api import ContainerRefused
from bulletin.cell.runtime.spec import HOSTNAME_CHARACTERS_MAX, Bind
from bulletin.core import limits
from bulletin.core.definition import File

__all__ = ["write_files"]

_SERVICE_BINDINGS: Final = "/etc/cf-service-bindings"
_HOSTS: Final = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.0.1 {hostname}\n"


def write_files(bundle: str, guid: str, files: Sequence[File]) -> tuple[Bind, ...]:
    """Write them below ``bundle``.

    Returns:
        What to show where.

    Raises:
        ContainerRefused: a path that is none, or too much to keep.
        OSError: they cannot be written.
    """
    hosts = f"{bundle}/hosts"
    _write(hosts, _HOSTS.format(hostname=guid[:HOSTNAME_CHARACTERS_MAX]).encode("ascii"))
    binds = [Bind(hosts, "/etc/hosts")]
    if files:
        directory = f"{bundle}/files"
        _write_mounted_files(directory, files)
        binds.append(Bind(directory, _SERVICE_BINDINGS))
    return tuple(binds)


def _write_mounted_files(directory: str, files: Sequence[File]) -> None:
    os.mkdir(directory, 0o755)
    left = limits.MOUNTED_FILES_BYTES_MAX
    for file in files:
        names = file.path.lstrip("/").split("/")
        if any(name in ("", ".", "..") or "\0" in name for name in names):
            raise ContainerRefused(f"unable to create volume mounted files: {file.path!r} is no path below a directory")
        content = file.content.encode("utf-8", "surrogatepass")
        left -= len(content)
        if left < 0:
            message = f"unable to create volume mounted files: over {limits.MOUNTED_FILES_BYTES_MAX} bytes"
            raise ContainerRefused(message)
        parent = os.path.join(directory, *names[:-1])
        os.makedirs(parent, 0o755, exist_ok=True)
        _write(os.path.join(parent, names[-1]), content)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    with open(fd, "wb", buffering=0) as file:
        file.write(content)
