"""``bulletin board``: the process that keeps the tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Group, Parameter

from bulletin.cli.exits import USAGE, CommandFailed
from bulletin.cli.options import DEFAULT_DATA, DataDirectory, convert
from bulletin.cli.parsing import parse_duration_ms
from bulletin.cli.serving import InsecurePlainHttp, LogLevel

if TYPE_CHECKING:
    import asyncio

    from bulletin.board.settings import BoardSettings
    from bulletin.trust.files import TlsFiles

__all__ = ["BOARD_EPILOGUE", "BoardOptions", "board", "make_board_settings"]


_LISTEN: Final = "127.0.0.1:8889"
BOARD_GROUP: Final = Group("Board", sort_key=10)

BOARD_EPILOGUE: Final = """\
Prints "ready http://HOST:PORT" on standard output once it serves, and nothing
else; logs are JSON lines on standard error. SIGTERM and Ctrl-C stop it, exit
status 0.

Boards with the same --database stand in for each other: one serves, the others
wait (a log line says standby, the API port is closed, --health answers), and
are ready when it is gone. Give clients and cells the URLs of all of them.

Examples:
  bulletin board
  bulletin board --listen 127.0.0.1:0 --data /tmp/board
  bulletin board --listen 10.0.0.5:8889 --database postgresql://db/bulletin \\
    --tls-ca ca.pem --tls-cert board.pem --tls-key board.key"""


def _seconds(text: str) -> float:
    # Which of them may be 0 is the settings' to say.
    return parse_duration_ms(text, ms_min=0) / 1000


def _duration(name: str, what: str) -> Parameter:
    return Parameter(
        group=BOARD_GROUP,
        env_var=f"BULLETIN_{name}",
        converter=convert(_seconds),
        help=what,
        show_default=lambda seconds: f"{seconds:g}s",
    )


def _option(name: str, what: str, *, show_default: bool = False) -> Parameter:
    return Parameter(group=BOARD_GROUP, env_var=f"BULLETIN_{name}", help=what, show_default=show_default)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class BoardOptions:
    """What an operator may set of a board, beside where it listens and keeps its files."""

    health: Annotated[str, _option("HEALTH", "HOST:PORT that answers 200 to everything, on a standby too.")] = ""
    database: Annotated[
        str,
        _option(
            "DATABASE",
            "postgresql://USER@HOST:PORT/DATABASE: keep tasks there, and let boards with the same database stand in "
            "for each other. Other users see command lines: a password belongs in BULLETIN_DATABASE or in a passfile.",
        ),
    ] = field(default="", repr=False)
    tls_ca: Annotated[
        Path | None, _option("TLS_CA", "https: the authorities whose certificates clients and cells must show, PEM.")
    ] = None
    tls_cert: Annotated[Path | None, _option("TLS_CERT", "https: the board's certificate, PEM.")] = None
    tls_key: Annotated[Path | None, _option("TLS_KEY", "https: the key of the board's certificate, PEM.")] = None
    roles: Annotated[
        Literal["certificate", "off"],
        _option(
            "ROLES",
            "https: who may do what: by the role in the certificate's OU (client, cell, operator), or off: every "
            "certificate may do everything.",
            show_default=True,
        ),
    ] = "certificate"
    encryption_keys: Annotated[
        Path | None,
        _option(
            "ENCRYPTION_KEYS",
            'File of the keys that seal definitions at rest: a JSON object {"LABEL": "PASSPHRASE"}, mode 0600. To '
            "change the key add one, make it active, and take the old one out once the log says rotation.done.",
        ),
    ] = None
    active_key_label: Annotated[
        str, _option("ACTIVE_KEY_LABEL", "The key that seals new tasks; not needed when there is only one.")
    ] = ""
    metrics: Annotated[
        str, _option("METRICS", "HOST:PORT of metrics over plain HTTP; without it only /metrics of the API.")
    ] = ""
    access_log: Annotated[Path | None, _option("ACCESS_LOG", "File that gets a JSON line for each request.")] = None
    max_task_retries: Annotated[
        int,
        Parameter(
            group=BOARD_GROUP,
            env_var="BULLETIN_MAX_TASK_RETRIES",
            help="Rejections after which the next one fails a task.",
            show_default=True,
        ),
    ] = 3
    when_full: Annotated[
        Literal["wait", "reject"],
        Parameter(
            group=BOARD_GROUP,
            env_var="BULLETIN_WHEN_FULL",
            help="What becomes of a task that fits a cell only when others have ended.",
            show_default=True,
        ),
    ] = "wait"
    converge_interval: Annotated[float, _duration("CONVERGE_INTERVAL", "Between two sweeps over all tasks.")] = 30.0
    kick_after: Annotated[float, _duration("KICK_AFTER", "A callback that was not delivered is tried again after.")] = (
        30.0
    )
    expire_pending: Annotated[float, _duration("EXPIRE_PENDING", "A task that never starts fails after.")] = 1800.0
    expire_completed: Annotated[float, _duration("EXPIRE_COMPLETED", "An ended task is removed after.")] = 120.0
    resolved_retention: Annotated[
        float, _duration("RESOLVED_RETENTION", "A task whose callback was delivered can be read for.")
    ] = 5.0
    callback_expiry: Annotated[float, _duration("CALLBACK_EXPIRY", "A callback is given up after.")] = 120.0
    callback_allow: Annotated[
        tuple[str, ...],
        _option("CALLBACK_ALLOW", "Network (CIDR) that callbacks may go to though a denied one holds it; repeatable."),
    ] = ()
    callback_deny: Annotated[
        tuple[str, ...],
        _option("CALLBACK_DENY", "Network (CIDR) that callbacks may not go to; may be repeated."),
    ] = ()
    callback_system_roots: Annotated[
        bool, _option("CALLBACK_SYSTEM_ROOTS", "https callbacks: trust the machine's authorities as well.")
    ] = False
    output_retention: Annotated[float, _duration("OUTPUT_RETENTION", "Output of an ended task is kept for.")] = 3600.0
    event_ring: Annotated[
        int, _option("EVENT_RING", "Events kept for streams that resume; 0 keeps none.", show_default=True)
    ] = 4096
    lease: Annotated[
        float,
        _duration("LEASE", "--database: a board not heard of for so long is replaced; about the time without one."),
    ] = 3.0
    lease_retry: Annotated[float, _duration("LEASE_RETRY", "--database: how often a standby looks.")] = 0.5


def board(
    *,
    listen: Annotated[
        str,
        Parameter(env_var="BULLETIN_LISTEN", help="HOST:PORT of the API; port 0 takes a free one.", show_default=True),
    ] = _LISTEN,
    data: DataDirectory = DEFAULT_DATA,
    options: BoardOptions | None = None,
    insecure_plain_http: InsecurePlainHttp = False,
    log_level: LogLevel = "info",
) -> int:
    """Serve a board: the API, the tasks, and the cells that dial in."""
    settings = make_board_settings(
        listen, data, options or BoardOptions(), insecure_plain_http=insecure_plain_http, log_level=log_level
    )
    import asyncio

    from bulletin.board.app import serve

    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(serve(settings))


def make_board_settings(
    listen: str, data: Path, options: BoardOptions, *, insecure_plain_http: bool, log_level: str
) -> BoardSettings:
    """The settings of a board, checked.

    Raises:
        CommandFailed: one of them cannot be.
    """
    from bulletin.board.keyfile import read_keys
    from bulletin.board.settings import Address, BoardSettings, SettingError

    try:
        keys = {} if options.encryption_keys is None else read_keys(options.encryption_keys)
        settings = BoardSettings(
            listen=Address.parse(listen, "listen"),
            health=Address.parse(options.health, "health") if options.health else None,
            data=data / "board",
            insecure_plain_http=insecure_plain_http,
            log_level=log_level,
            max_task_retries=options.max_task_retries,
            when_full=options.when_full,
            converge_repeat_interval_seconds=options.converge_interval,
            kick_task_duration_seconds=options.kick_after,
            expire_pending_task_duration_seconds=options.expire_pending,
            expire_completed_task_duration_seconds=options.expire_completed,
            resolved_retention_seconds=options.resolved_retention,
            callback_expiry_seconds=options.callback_expiry,
            output_retention_seconds=options.output_retention,
            database=options.database or None,
            tls=_tls_files(options),
            roles=options.roles,
            encryption_keys=keys,
            active_key_label=options.active_key_label or (next(iter(keys)) if len(keys) == 1 else ""),
            metrics=Address.parse(options.metrics, "metrics") if options.metrics else None,
            access_log=options.access_log,
            callback_allow=options.callback_allow,
            callback_deny=options.callback_deny,
            callback_system_roots=options.callback_system_roots,
            event_ring_max=options.event_ring,
            lease_seconds=options.lease,
            lease_retry_seconds=options.lease_retry,
        )
        settings.check()
    except SettingError as error:
        raise CommandFailed(str(error), "bulletin board --help", USAGE) from error
    return settings


def _tls_files(options: BoardOptions) -> TlsFiles | None:
    """The board's own certificate and whom it trusts.

    Raises:
        CommandFailed: some of the three are missing.
    """
    from bulletin.trust.files import TlsFiles

    match (options.tls_ca, options.tls_cert, options.tls_key):
        case (None, None, None):
            return None
        case (Path() as ca, Path() as cert, Path() as key):
            return TlsFiles(ca, cert, key)
    reason = "--tls-ca, --tls-cert and --tls-key go together: authorities, certificate and key"
    raise CommandFailed(reason, "give all three, or none for plain HTTP on loopback", USAGE)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop, where there is one (design section 5)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
