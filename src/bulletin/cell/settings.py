"""What an operator may set of a cell, with its defaults (cell.md section 9)."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from bulletin.core import limits
from bulletin.core.model import Resources
from bulletin.telemetry.logging import LEVELS
from bulletin.trust.files import TlsFiles

__all__ = ["CellSettings", "SettingError", "parse_amount", "read_capacity", "read_certificate_name"]

_MIB: Final = 1024 * 1024
_ENGINES: Final = ("auto", "crun", "runc")


class SettingError(ValueError):
    """A setting that cannot be; the text names it, the rule, and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSettings:
    """A cell's settings. Durations are seconds."""

    #: ``http://HOST:PORT`` or ``https://HOST:PORT`` of the board; of several boards, with commas in between.
    board_url: str = "http://127.0.0.1:8889"
    #: How the cell proves to boards who it is, for https: its certificate's name is the cell's id.
    tls: TlsFiles | None = None
    #: The directory of the cell's files: journal, images/, containers/.
    data: Path = Path("/var/lib/bulletin/cell")
    #: The cell's name on its board; two cells may not share one.
    cell_id: str = field(default_factory=socket.gethostname)
    zone: str = ""
    #: What tasks may take together; None is what the machine has.
    memory_mb: int | None = None
    disk_mb: int | None = None
    containers: int = limits.CONTAINERS_MAX
    engine: Literal["auto", "crun", "runc"] = "auto"
    placement_tags: frozenset[str] = frozenset()
    optional_placement_tags: frozenset[str] = frozenset()
    #: Stack name to the directory of its root file system (``preloaded:<stack>``, cell.md 5.1).
    preloaded_rootfs: Mapping[str, Path] = field(default_factory=dict)
    #: ``host[:port]`` of registries that may be spoken to by plain HTTP.
    insecure_registries: frozenset[str] = frozenset()
    #: From SIGTERM to SIGKILL.
    graceful_shutdown_seconds: float = 10.0
    #: Pings on the link; one that is not answered within half the time ends it.
    link_heartbeat_seconds: float = 10.0
    #: Plain HTTP to a board on another machine: whoever can speak for the board runs containers here as root.
    insecure_plain_http: bool = False
    log_level: str = "info"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            SettingError: names the setting, the rule and the way out.
        """
        for url in self.board_urls:
            self._check_board_url(url)
        if not self.cell_id or len(self.cell_id) > limits.IDENTIFIER_CHARACTERS_MAX:
            msg = f"id: must have 1 to {limits.IDENTIFIER_CHARACTERS_MAX} characters, not {len(self.cell_id)}"
            raise SettingError(msg)
        if self.memory_mb is not None and self.memory_mb <= 0:
            raise SettingError("memory-mb: memory limit must be a positive number or 'auto'")
        if self.disk_mb is not None and self.disk_mb <= 0:
            raise SettingError("disk-mb: disk limit must be a positive number or 'auto'")
        if not 1 <= self.containers <= limits.CELL_TASKS_MAX:
            raise SettingError(f"containers: must be from 1 to {limits.CELL_TASKS_MAX}, not {self.containers}")
        if self.engine not in _ENGINES:
            raise SettingError(f"engine: {self.engine!r} is none of {', '.join(_ENGINES)}")
        if self.graceful_shutdown_seconds < 0:
            raise SettingError("graceful-shutdown-interval: must be 0 or more seconds")
        if self.log_level not in LEVELS:
            raise SettingError(f"log-level: {self.log_level!r} is none of {', '.join(LEVELS)}")
        if self.link_heartbeat_seconds <= 0:
            raise SettingError("link-heartbeat: must be more than 0 seconds")
        if self.needs_tls:
            self._check_tls()

    @property
    def board_urls(self) -> tuple[str, ...]:
        """The boards, in the order in which they are dialled."""
        return tuple(url.strip().rstrip("/") for url in self.board_url.split(","))

    @property
    def needs_tls(self) -> bool:
        """Whether a board is dialled by https."""
        return any(url.lower().startswith("https:") for url in self.board_urls)

    def _check_board_url(self, text: str) -> None:
        try:
            url = urlsplit(text)
            host, _ = url.hostname, url.port
        except ValueError as error:
            raise SettingError(f"board: {text!r} is not a URL: {error}") from error
        if url.scheme not in {"http", "https"} or not host:
            msg = f"board: {text!r} is not http://HOST:PORT; write for example http://127.0.0.1:8889"
            raise SettingError(msg)
        if url.scheme == "http" and not _is_loopback(host) and not self.insecure_plain_http:
            msg = (
                f"board: {text} is on another machine, and plain HTTP is for loopback only; "
                "use https, or pass --insecure-plain-http if the network is trusted"
            )
            raise SettingError(msg)

    def _check_tls(self) -> None:
        if self.tls is None:
            raise SettingError("board: https needs --ca, --cert and --key; `bulletin certs init` makes them")
        name = read_certificate_name(self.tls)
        if name != self.cell_id:
            msg = (
                f"id: {self.cell_id} is not the name in {self.tls.cert}, which is {name}; pass --id {name}, or a "
                f"certificate made by `bulletin certs issue DIRECTORY --role cell --name {self.cell_id}`"
            )
            raise SettingError(msg)


def read_certificate_name(files: TlsFiles) -> str:
    """The name in a cell's certificate, which is the cell's id.

    Raises:
        SettingError: the files cannot be used.
    """
    # Only a cell with certificates needs this, and it takes as long as all the rest of the start.
    from bulletin.trust.authority import read_certificate
    from bulletin.trust.contexts import client_context

    try:
        client_context(files)
        return read_certificate(files.cert.read_bytes()).name
    except OSError as error:  # TrustError is one
        raise SettingError(f"cert: {error}") from error


def parse_amount(text: str, name: str) -> int | None:
    """Read ``N`` or ``auto`` (None); ``name`` is the setting's, for the error.

    Raises:
        SettingError: it is neither.
    """
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise SettingError(f"{name}: {text!r} is neither a positive number nor 'auto'")
    return int(text)


def read_capacity(settings: CellSettings, meminfo: Path = Path("/proc/meminfo")) -> Resources:
    """What the cell offers: what was set, else the machine's whole memory and what is free where its data lies.

    Raises:
        SettingError: the machine does not tell, or has nothing.
    """
    memory_mb = settings.memory_mb
    if memory_mb is None:
        memory_mb = _memory_total_mb(meminfo)
    disk_mb = settings.disk_mb
    if disk_mb is None:
        try:
            disk = os.statvfs(settings.data)
        except OSError as error:
            raise SettingError(f"disk-mb: {settings.data} cannot be looked at: {error.strerror}; set it") from error
        disk_mb = disk.f_bavail * disk.f_frsize // _MIB
        if disk_mb <= 0:
            raise SettingError("disk-mb: auto disk limit must result in a positive number")
    return Resources(memory_mb, disk_mb, settings.containers)


def _memory_total_mb(meminfo: Path) -> int:
    try:
        lines = meminfo.read_text("ascii", "replace").splitlines()
    except OSError as error:
        raise SettingError(f"memory-mb: {meminfo} cannot be read: {error.strerror}; set it") from error
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if name == "MemTotal" and words and words[0].isdigit():
            return max(1, int(words[0]) // 1024)
    raise SettingError(f"memory-mb: {meminfo} does not name MemTotal; set it")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
