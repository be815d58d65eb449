"""What an operator may set of a board, with its defaults (board-api.md 14.1, design section 6)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bulletin.core import limits

__all__ = ["Address", "BoardSettings", "SettingError"]


class SettingError(ValueError):
    """A setting that cannot be; the text names it, the rule, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0 lets the system choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, name: str) -> Address:
        """Read ``HOST:PORT``; ``name`` is the setting's, for the error.

        Raises:
            SettingError: it is not of that form.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
            msg = f"{name}: {text!r} is not HOST:PORT with a port from 0 to 65535; write for example 127.0.0.1:8889"
            raise SettingError(msg)
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardSettings:
    """A board's settings. Durations are seconds."""

    listen: Address = Address("127.0.0.1", 8889)
    #: Answers 200 to everything, from the first moment on (board-api.md 1.5); None: no such listener.
    health: Address | None = None
    #: The directory of the board's files; None keeps everything in memory and nothing after the end.
    data: Path | None = Path("/var/lib/bulletin/board")
    #: Plain HTTP to other machines: anybody who reaches the port runs containers as root on every cell.
    insecure_plain_http: bool = False
    log_level: str = "info"

    converge_repeat_interval_seconds: float = 30.0
    kick_task_duration_seconds: float = 30.0
    expire_pending_task_duration_seconds: float = 1800.0
    expire_completed_task_duration_seconds: float = 120.0
    max_task_retries: int = 3
    #: How long a task whose callback was delivered can still be read (design section 6).
    resolved_retention_seconds: float = 5.0
    #: "wait": a task that fits a cell when it is empty waits; "reject": Diego's way.
    when_full: Literal["wait", "reject"] = "wait"
    starting_container_weight: float = 0.25
    #: 0: no such limit.
    starting_container_count_max: int = 0

    #: A cell whose link is gone for longer is gone (board-api.md section 12).
    presence_ttl_seconds: float = 15.0
    #: A cell that was given a task and does not ask to start it for longer loses it (promise L3).
    claim_seconds: float = 45.0
    #: Pings on the link; two unanswered end it.
    link_heartbeat_seconds: float = 5.0

    callback_workers: int = limits.CALLBACK_WORKERS
    callback_timeout_seconds: float = 10.0
    callback_connect_seconds: float = 5.0
    callback_expiry_seconds: float = 120.0

    lease_seconds: float = 5.0
    #: A commit that fails is tried again for so long; then the board gives up its lease and starts over.
    commit_retry_seconds: float = 5.0
    #: Requests under way get so long to finish when the board is stopped.
    stop_grace_seconds: float = 5.0
    #: The output of an ended task can be read for so long.
    output_retention_seconds: float = 3600.0
    #: The output of all ended tasks together; the oldest goes first.
    output_store_bytes_max: int = 256 * 1024 * 1024

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            SettingError: names the setting, the rule and the way out.
        """
        if not self.listen.is_loopback and not self.insecure_plain_http:
            msg = (
                f"listen: {self.listen} can be reached from other machines, and plain HTTP is for loopback only; "
                "listen on 127.0.0.1, or pass --insecure-plain-http if the network is trusted"
            )
            raise SettingError(msg)
        for name in (
            "converge_repeat_interval_seconds",
            "presence_ttl_seconds",
            "claim_seconds",
            "link_heartbeat_seconds",
            "lease_seconds",
            "callback_timeout_seconds",
        ):
            if getattr(self, name) <= 0:
                msg = f"{name}: must be more than 0 seconds"
                raise SettingError(msg)
        if self.max_task_retries < 0:
            msg = "max_task_retries: must be 0 or more"
            raise SettingError(msg)
        if self.callback_workers < 1:
            msg = "callback_workers: must be 1 or more"
            raise SettingError(msg)
