"""What an operator may set of a board, with its defaults (board-api.md 14.1, design section 6)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from bulletin.core import limits
from bulletin.trust.files import TlsFiles

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
    #: ``postgresql://...``: the tasks are there, and ``data`` is not used. May hold a password: never shown.
    database: str | None = field(default=None, repr=False)
    #: None: plain HTTP. Else mutual TLS: a peer without a certificate of the authority is not talked to.
    tls: TlsFiles | None = None
    #: "certificate": a peer may do what the roles in its certificate may (design promise S14); "off": as Diego, any
    #: certificate of the authority may do anything.
    roles: Literal["certificate", "off"] = "certificate"
    #: Label to passphrase; empty: definitions are stored in clear (board-api.md section 13).
    encryption_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: The label of the key that new rows are sealed with.
    active_key_label: str = ""
    #: Prometheus metrics over plain HTTP; None: only at ``/metrics`` of ``listen``.
    metrics: Address | None = None
    #: A file that gets a JSON line for each request and answer.
    access_log: Path | None = None
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
    #: Networks (CIDR) a callback may go to even if ``callback_deny`` names them.
    callback_allow: tuple[str, ...] = ()
    #: Networks (CIDR) a callback may not go to, beside link-local and cloud metadata addresses.
    callback_deny: tuple[str, ...] = ()
    #: https callbacks: trust the machine's authorities too, not only the board's own (board-api.md section 8).
    callback_system_roots: bool = False

    #: The last events, which the board's own stream can resume from.
    event_ring_max: int = 4096

    #: A board that does not renew its lease for so long has lost it; it renews three times as often.
    lease_seconds: float = 3.0
    #: A standby looks so often whether the lease is free.
    lease_retry_seconds: float = 0.5
    #: A commit that fails is tried again for so long; then the board gives up its lease and starts over.
    commit_retry_seconds: float = 5.0
    #: Requests under way get so long to finish when the board is stopped.
    stop_grace_seconds: float = 5.0
    #: The output of an ended task can be read for so long.
    output_retention_seconds: float = 3600.0
    #: The output of all ended tasks together; the oldest goes first.
    output_store_bytes_max: int = 256 * 1024 * 1024

    def check(self) -> None:
        """Refuse what cannot be. Reads the TLS files, nothing else.

        Raises:
            SettingError: names the setting, the rule and the way out.
        """
        self._check_exposure()
        self._check_database()
        self._check_keys()
        for name in ("callback_allow", "callback_deny"):
            for text in getattr(self, name):
                _check_network(name, text)
        for names, low, rule in _RANGES:
            for name in names:
                value = getattr(self, name)
                if not low <= value <= _NUMBER_MAX:
                    msg = f"{name}: {value:g} must be {rule}"
                    raise SettingError(msg)

    def _check_exposure(self) -> None:
        if self.tls is not None:
            from bulletin.trust.contexts import TrustError, server_context

            try:
                server_context(self.tls)
            except TrustError as error:
                msg = f"tls: {error}"
                raise SettingError(msg) from error
        elif not self.listen.is_loopback and not self.insecure_plain_http:
            msg = (
                f"listen: {self.listen} can be reached from other machines, and plain HTTP is for loopback only; "
                "give the board certificates with --tls-ca, --tls-cert and --tls-key (`bulletin certs init` makes a "
                "set), listen on 127.0.0.1, or pass --insecure-plain-http if the network is trusted"
            )
            raise SettingError(msg)

    def _check_database(self) -> None:
        """The text may hold a password anywhere, when it is mistyped too: no part of it is repeated."""
        if self.database is None:
            return
        problem = ""
        try:
            parts = urlsplit(self.database)
            has_database = bool(parts.path.strip("/"))
            # Reading the port is what checks it.
            has_place = parts.port is not None or bool(parts.hostname) or "host=" in parts.query
        except ValueError:
            problem = "it cannot be read as a URL; a password's special characters are written as %XX"
        else:
            if parts.scheme not in {"postgresql", "postgres"}:
                problem = "it does not begin with postgresql://"
            elif not has_place or not has_database:
                problem = "it names no host or no database"
        if problem:
            msg = f"database: {problem}; write postgresql://USER@HOST:PORT/DATABASE, the password in a passfile if any"
            raise SettingError(msg)

    def _check_keys(self) -> None:
        """Board-api.md section 13. Labels are shown, passphrases never."""
        for label, passphrase in self.encryption_keys.items():
            if not 1 <= len(label.encode("utf-8", "surrogatepass")) <= _LABEL_BYTES_MAX:
                msg = f"encryption_keys: a label has 1 to {_LABEL_BYTES_MAX} bytes, and {label[:40]!r} has not"
                raise SettingError(msg)
            if not passphrase:
                msg = f"encryption_keys: the passphrase of {label!r} is empty"
                raise SettingError(msg)
        if self.active_key_label not in self.encryption_keys and (self.encryption_keys or self.active_key_label):
            known = ", ".join(repr(label) for label in self.encryption_keys) or "none"
            if self.active_key_label:
                msg = f"active_key_label: {self.active_key_label!r} is not among the encryption keys ({known})"
            else:
                msg = f"active_key_label: say which of the encryption keys seals new tasks ({known})"
            raise SettingError(msg)


_LABEL_BYTES_MAX: Final = 127
#: No setting is larger; it also keeps infinity and "not a number" out.
_NUMBER_MAX: Final = 1e15
#: Names, the least value, and how to say it.
_RANGES: Final[tuple[tuple[tuple[str, ...], float, str], ...]] = (
    (
        (
            "converge_repeat_interval_seconds",
            "presence_ttl_seconds",
            "claim_seconds",
            "link_heartbeat_seconds",
            "callback_timeout_seconds",
            "callback_connect_seconds",
            "lease_retry_seconds",
        ),
        0.01,
        "0.01 seconds or more",
    ),
    # A renewal takes a commit of the database, and a third of the lease passes between two.
    (("lease_seconds",), 0.5, "0.5 seconds or more"),
    (
        (
            "kick_task_duration_seconds",
            "expire_pending_task_duration_seconds",
            "expire_completed_task_duration_seconds",
            "resolved_retention_seconds",
            "callback_expiry_seconds",
            "commit_retry_seconds",
            "stop_grace_seconds",
            "output_retention_seconds",
            "output_store_bytes_max",
            "max_task_retries",
            "starting_container_weight",
            "starting_container_count_max",
            "event_ring_max",
        ),
        0,
        "0 or more",
    ),
    (("callback_workers",), 1, "1 or more"),
)


def _check_network(name: str, text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        msg = f"{name}: {error}; write a network such as 10.0.0.0/8 or fd00::/8, or a single address"
        raise SettingError(msg) from error
