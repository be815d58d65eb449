"""``bulletin cell``: the process that runs containers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Group, Parameter

from bulletin.cli.exits import USAGE, CommandFailed
from bulletin.cli.options import DEFAULT_BOARD, DEFAULT_DATA, DataDirectory
from bulletin.cli.serving import InsecurePlainHttp, LogLevel

if TYPE_CHECKING:
    from bulletin.cell.settings import CellSettings
    from bulletin.trust.files import TlsFiles

__all__ = ["CELL_EPILOGUE", "CellOptions", "cell", "make_cell_settings"]


CELL_GROUP: Final = Group("Cell", sort_key=20)

CELL_EPILOGUE: Final = """\
Needs root. Prints "ready CELL_ID" on standard output once its board has
welcomed it, and nothing else; logs are JSON lines on standard error. SIGTERM
and Ctrl-C stop its containers and end it, exit status 0.

Examples:
  bulletin cell --board http://127.0.0.1:8889
  bulletin cell --board https://b1:8889,https://b2:8889 \\
    --ca ca.pem --cert c1.pem --key c1.key
  bulletin cell --id c2 --data /srv/c2 --memory-mb 4096"""


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
