"""``bulletin board`` and ``bulletin cell``: the two processes that serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
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

__all__ = [
    "BOARD_EPILOGUE",
    "CELL_EPILOGUE",
    "BoardOptions",
    "CellOptions",
    "as_arguments",
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

Examples:
  bulletin board
  bulletin board --listen 127.0.0.1:0 --data /tmp/board"""

CELL_EPILOGUE: Final = """\
Needs root. Prints "ready CELL_ID" on standard output once its board has
welcomed it, and nothing else; logs are JSON lines on standard error. SIGTERM
and Ctrl-C stop its containers and end it, exit status 0.

Examples:
  bulletin cell --board http://127.0.0.1:8889
  bulletin cell --id c2 --data /srv/c2 --memory-mb 4096"""


def _seconds(text: str) -> float:
    return parse_duration_ms(text) / 1000


def _duration(name: str, what: str) -> Parameter:
    return Parameter(
        group=BOARD_GROUP,
        env_var=f"BULLETIN_{name}",
        converter=convert(_seconds),
        help=what,
        show_default=lambda seconds: f"{seconds:g}s",
    )


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class BoardOptions:
    """What an operator may set of a board, beside where it listens and keeps its files."""

    health: Annotated[
        str, Parameter(group=BOARD_GROUP, env_var="BULLETIN_HEALTH", help="HOST:PORT that answers 200 to everything.")
    ] = ""
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
    output_retention: Annotated[float, _duration("OUTPUT_RETENTION", "Output of an ended task is kept for.")] = 3600.0


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class CellOptions:
    """What an operator may set of a cell, beside its board and its files."""

    id: Annotated[
        str, Parameter(group=CELL_GROUP, env_var="BULLETIN_CELL_ID", help="Name of the cell; the host's when left out.")
    ] = ""
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
        str, Parameter(env_var="BULLETIN_BOARD", help="URL of the board to dial.", show_default=True)
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
    from bulletin.board.settings import Address, BoardSettings, SettingError

    try:
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
        )
        settings.check()
    except SettingError as error:
        raise CommandFailed(str(error), "bulletin board --help", USAGE) from error
    return settings


def make_cell_settings(
    board: str, data: Path, options: CellOptions, *, insecure_plain_http: bool, log_level: str
) -> CellSettings:
    """The settings of a cell, checked.

    Raises:
        CommandFailed: one of them cannot be.
    """
    import socket

    from bulletin.cell.settings import CellSettings, SettingError, parse_amount
    from bulletin.core import limits

    try:
        settings = CellSettings(
            board_url=board,
            data=data / "cell",
            cell_id=options.id or socket.gethostname(),
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


def as_arguments(options: BoardOptions | CellOptions) -> list[str]:
    """The command line that gives another process the same options; defaults are left out."""
    arguments: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        assert field.default is not MISSING, "every option has a default"
        if value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, tuple):
            arguments.extend(f"{flag}={member}" for member in value)
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
