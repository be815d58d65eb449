"""``bulletin board`` and ``bulletin cell``: the two processes that serve."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Group, Parameter

from bulletin.cli.exits import USAGE, CommandFailed
from bulletin.cli.options import DEFAULT_BOARD, DEFAULT_DATA, DataDirectory, convert
from bulletin.cli.parsing import parse_duration_ms

if TYPE_CHECKING:
    import asyncio

    from bulletin.board.settings import BoardSettings
    from bulletin.cell.settings import CellSettings
    from bulletin.trust.files import TlsFiles

__all__ = [
    "BOARD_EPILOGUE",
    "CELL_EPILOGUE",
    "BoardOptions",
    "CellOptions",
    "as_arguments",
    "as_environment",
    "board",
    "cell",
    "make_board_settings",
    "make_cell_settings",
]

_LISTEN: Final = "127.0.0.1:8889"
BOARD_GROUP: Final = Group("Board", sort_key=10)
CELL_GROUP: Final = Group("Cell", sort_key=20)

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

CELL_EPILOGUE: Final = """\
Needs root. Prints "ready CELL_ID" on standard output once its board has
welcomed it, and nothing else; logs are JSON lines on standard error. SIGTERM
and Ctrl-C stop its containers and end it, exit status 0.

Examples:
  bulletin cell --board http://127.0.0.1:8889
  bulletin cell --board https://b1:8889,https://b2:8889 \\
    --ca ca.pem --cert c1.pem --key c1.key
  bulletin cell --id c2 --data /srv/c2 --memory-mb 4096"""


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


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CellOptions:
    """What an operator may set of a cell, beside its board and its files."""

    id: Annotated[
        str,
        Parameter(
            group=CELL_GROUP,
            env_var="BULLETIN_CELL_ID",
            help="Name of the cell; when left out its certificate's, or else the host's.",
        ),
    ] = ""
    ca: Annotated[
        Path | None,
        Parameter(group=CELL_GROUP, env_var="BULLETIN_CA", help="https: the authorities of boards to trust, PEM."),
    ] = None
    cert: Annotated[
        Path | None,
        Parameter(group=CELL_GROUP, env_var="BULLETIN_CERT", help="https: the cell's certificate, PEM; names its id."),
    ] = None
    key: Annotated[
        Path | None,
        Parameter(group=CELL_GROUP, env_var="BULLETIN_KEY", help="https: the key of the cell's certificate, PEM."),
    ] = None
    zone: Annotated[str, Parameter(group=CELL_GROUP, env_var="BULLETIN_ZONE", help="Where the cell stands.")] = ""
    memory_mb: Annotated[
        str,
        Parameter(
            group=CELL_GROUP,
            env_var="BULLETIN_MEMORY_MB",
            help="Memory for tasks: MB, or auto for all.",
            show_default=True,
        ),
    ] = "auto"
    disk_mb: Annotated[
        str,
        Parameter(
            group=CELL_GROUP,
            env_var="BULLETIN_DISK_MB",
            help="Disk for tasks: MB, or auto for what is free.",
            show_default=True,
        ),
    ] = "auto"
    containers: Annotated[
        int | None, Parameter(group=CELL_GROUP, env_var="BULLETIN_CONTAINERS", help="Containers at most, at once.")
    ] = None
    engine: Annotated[
        Literal["auto", "crun", "runc"],
        Parameter(
            group=CELL_GROUP,
            env_var="BULLETIN_ENGINE",
            help="The OCI runtime; auto takes the first that works.",
            show_default=True,
        ),
    ] = "auto"
    placement_tag: Annotated[
        tuple[str, ...],
        Parameter(group=CELL_GROUP, help="Only tasks with this tag; may be repeated."),
    ] = ()
    optional_placement_tag: Annotated[
        tuple[str, ...],
        Parameter(group=CELL_GROUP, help="Tasks with this tag, too; may be repeated."),
    ] = ()


LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    Parameter(env_var="BULLETIN_LOG_LEVEL", help="The least that is logged.", show_default=True),
]
InsecurePlainHttp = Annotated[
    bool,
    Parameter(
        env_var="BULLETIN_INSECURE_PLAIN_HTTP",
        help="Allow plain HTTP beyond loopback: whoever reaches the board runs containers as root.",
    ),
]


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


def cell(
    *,
    board: Annotated[
        str,
        Parameter(
            env_var="BULLETIN_BOARD",
            help="URL of the board to dial; of several boards, with commas in between: the next one when one fails.",
            show_default=True,
        ),
    ] = DEFAULT_BOARD,
    data: DataDirectory = DEFAULT_DATA,
    options: CellOptions | None = None,
    insecure_plain_http: InsecurePlainHttp = False,
    log_level: LogLevel = "info",
) -> int:
    """Serve a cell: run the tasks its board gives it, in containers of this machine."""
    settings = make_cell_settings(
        board, data, options or CellOptions(), insecure_plain_http=insecure_plain_http, log_level=log_level
    )
    from bulletin.cell.app import run

    return run(settings)


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


def make_cell_settings(
    board: str, data: Path, options: CellOptions, *, insecure_plain_http: bool, log_level: str
) -> CellSettings:
    """The settings of a cell, checked.

    Raises:
        CommandFailed: one of them cannot be.
    """
    import socket

    from bulletin.cell.settings import CellSettings, SettingError, parse_amount, read_certificate_name
    from bulletin.core import limits

    try:
        is_secure = CellSettings(board_url=board).needs_tls
        tls = _cell_files(options, is_needed=is_secure)
        settings = CellSettings(
            board_url=board,
            tls=tls,
            data=data / "cell",
            cell_id=options.id or (read_certificate_name(tls) if tls and is_secure else socket.gethostname()),
            zone=options.zone,
            memory_mb=parse_amount(options.memory_mb, "memory-mb"),
            disk_mb=parse_amount(options.disk_mb, "disk-mb"),
            containers=limits.CONTAINERS_MAX if options.containers is None else options.containers,
            engine=options.engine,
            placement_tags=frozenset(options.placement_tag),
            optional_placement_tags=frozenset(options.optional_placement_tag),
            insecure_plain_http=insecure_plain_http,
            log_level=log_level,
        )
        settings.check()
    except SettingError as error:
        raise CommandFailed(str(error), "bulletin cell --help", USAGE) from error
    return settings


def _cell_files(options: CellOptions, *, is_needed: bool) -> TlsFiles | None:
    """The cell's own certificate and whom it trusts; what the environment has of them does no harm to plain HTTP.

    Raises:
        CommandFailed: some of the three are missing.
    """
    from bulletin.trust.files import TlsFiles

    if options.ca is not None and options.cert is not None and options.key is not None:
        return TlsFiles(options.ca, options.cert, options.key)
    if is_needed:
        reason = "https needs --ca, --cert and --key: authorities, certificate and key"
        raise CommandFailed(reason, "`bulletin certs init` makes them", USAGE)
    return None


#: Options that may hold a secret, and the variables that carry them: every user of a machine sees command lines.
_SECRET: Final = {"database": "BULLETIN_DATABASE"}


def as_environment(options: BoardOptions | CellOptions) -> dict[str, str]:
    """This process's environment with exactly the secrets among ``options``, for the process that is to have them."""
    environment = {name: value for name, value in os.environ.items() if name not in _SECRET.values()}
    for name, variable in _SECRET.items():
        value = getattr(options, name, "")
        if value:
            environment[variable] = value
    return environment


def as_arguments(options: BoardOptions | CellOptions) -> list[str]:
    """The command line that gives another process the same options; defaults, and what is secret, are left out."""
    arguments: list[str] = []
    for option in fields(options):
        value = getattr(options, option.name)
        assert option.default is not MISSING, "every option has a default"
        if value == option.default or option.name in _SECRET:
            continue
        flag = "--" + option.name.replace("_", "-")
        if isinstance(value, tuple):
            arguments.extend(f"{flag}={member}" for member in value)
        elif isinstance(value, bool):
            arguments.append(flag)
        elif isinstance(value, float):
            arguments.append(f"{flag}={value * 1000:.0f}ms")
        else:
            arguments.append(f"{flag}={value}")
    return arguments


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop, where there is one (design section 5)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
