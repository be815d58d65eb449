"""``bulletin certs``: an authority of one's own, and the certificates of boards, cells and clients."""

from __future__ import annotations

import datetime as dt
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from bulletin.cli import printing
from bulletin.cli.exits import FAILED, OK, USAGE, CommandFailed
from bulletin.cli.options import Json

if TYPE_CHECKING:
    from bulletin.trust.directory import Entry

__all__ = ["app"]

EPILOGUE: Final = """\
Examples:
  bulletin certs init ./certs --host board.example.com --host 10.0.0.5 \\
    --cell c1 --cell c2
  bulletin certs issue ./certs --role cell --name c3
  bulletin certs issue ./certs --role board --name board2 --host 10.0.0.6
  bulletin certs show ./certs
  bulletin certs renew ./certs --within-days 30

Beyond loopback boards, cells and clients prove to each other who they are. The
directory holds the authority (ca.pem, ca.key) and NAME.pem with NAME.key for
each of them. A machine needs ca.pem and its own two files. ca.key is needed
only by these commands: who has it can be anybody, so keep it off the machines.

A certificate's roles say what its owner may do: client (desire, look, cancel,
watch), cell (take and report its own tasks; its name is the cell's id), and
operator (what a client may, and reject tasks, and read metrics). A board's
certificate has no role; it also identifies the board to receivers of callbacks.

Certificates are good for a year: none can be revoked, so a stolen key must not
be good for long. Renewing keeps the key; boards and cells take a renewed file
over without a restart. The authority is good for ten years."""

app = App(name="certs", help="Make and renew the certificates of boards, cells and clients.", help_epilogue=EPILOGUE)

#: What a board on this machine is reached by in any case.
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
_DEFAULT_DAYS: Final = 365
_SOON_DAYS: Final = 30
_BOARD: Final = "board"
_PORT: Final = 8889

Directory = Annotated[Path, Parameter(help="The directory of the certificates.")]
Days = Annotated[
    int, Parameter(help="How long they are good; an authority's end is theirs as well.", show_default=True)
]
KeyType = Annotated[
    Literal["ecdsa", "rsa"],
    Parameter(help="rsa only for peers without TLS 1.3: their ciphers need it."),
]


@app.command
def init(
    directory: Annotated[Path, Parameter(help="A directory that is not there yet.")],
    /,
    *,
    host: Annotated[
        tuple[str, ...],
        Parameter(help="Name or address the board is reached by, beside this machine's own; may be repeated."),
    ] = (),
    cell: Annotated[tuple[str, ...], Parameter(help="Id of a cell; this machine's name when left out.")] = (),
    client: Annotated[tuple[str, ...], Parameter(help="Name of a client.", show_default=True)] = ("client",),
    operator: Annotated[tuple[str, ...], Parameter(help="Name of an operator.", show_default=True)] = ("operator",),
    days: Days = _DEFAULT_DAYS,
    key_type: KeyType = "ecdsa",
    json: Json = False,
) -> int:
    """Make an authority, and a board's, a cell's, a client's and an operator's certificate."""
    from bulletin.trust.authority import Purpose
    from bulletin.trust.directory import Order, create
    from bulletin.wire.routes import Role

    name = socket.gethostname()
    hosts = tuple(dict.fromkeys((*host, *_LOCAL_HOSTS, *_names_of_this_machine(name))))
    cells = cell or (name,)
    orders = [Order(_BOARD, Purpose.BOARD, hosts=hosts)]
    for names, role in ((cells, Role.CELL), (client, Role.CLIENT), (operator, Role.OPERATOR)):
        orders.extend(Order(one, Purpose.PEER, frozenset({role})) for one in names)
    entries = _try(lambda: create(directory.absolute(), orders, _now(), days=days, key_kind=key_type))
    _show(entries, as_json=json)
    if not json:
        _say_what_next(directory, host, cells[0], (*client, *operator))
    return OK


@app.command
def issue(
    directory: Directory,
    /,
    *,
    role: Annotated[
        tuple[Literal["client", "cell", "operator", "board"], ...],
        Parameter(help="What it is for; may be repeated, except board."),
    ],
    name: Annotated[str, Parameter(help="Whose it is; a cell's id. Its files are NAME.pem and NAME.key.")],
    host: Annotated[
        tuple[str, ...], Parameter(help="With --role board: name or address it is reached by; may be repeated.")
    ] = (),
    days: Days = _DEFAULT_DAYS,
    key_type: KeyType = "ecdsa",
    json: Json = False,
) -> int:
    """Make one more certificate."""
    from bulletin.trust.authority import Purpose
    from bulletin.trust.directory import Order
    from bulletin.trust.directory import issue as issue_in
    from bulletin.wire.routes import Role

    if _BOARD in role:
        if len(role) > 1:
            raise CommandFailed("a board's certificate has no other role", "issue one for each", USAGE)
        if not host:
            raise CommandFailed("--role board needs --host", "pass each name and address it is reached by", USAGE)
        order = Order(name, Purpose.BOARD, hosts=host)
    else:
        if host:
            raise CommandFailed("--host is for boards", "leave it out, or pass --role board", USAGE)
        order = Order(name, Purpose.PEER, frozenset(Role(word) for word in role))
    entry = _try(lambda: issue_in(directory, order, _now(), days=days, key_kind=key_type))
    _show([entry], as_json=json)
    return OK


@app.command
def renew(
    directory: Directory,
    names: Annotated[tuple[str, ...], Parameter(help="Whose.")] = (),
    /,
    *,
    within_days: Annotated[int | None, Parameter(help="All that end within so many days, expired ones too.")] = None,
    days: Days = _DEFAULT_DAYS,
    json: Json = False,
) -> int:
    """Make new certificates for the same keys; boards and cells take them over by themselves."""
    from bulletin.trust.directory import AUTHORITY, load
    from bulletin.trust.directory import renew as renew_in

    if bool(names) == (within_days is not None):
        raise CommandFailed("name certificates, or pass --within-days", "bulletin certs renew --help", USAGE)
    now = _now()
    if within_days is not None:
        end = now + dt.timedelta(days=within_days)
        entries = _try(lambda: load(directory, now))
        names = tuple(entry.files.cert.stem for entry in entries if entry.certificate.not_after <= end)
        if AUTHORITY in names:
            printing.say(f"the authority ends on {_day(entries[0])}; replace it with `bulletin certs init` before")
        names = tuple(name for name in names if name != AUTHORITY)
    _show(_try(lambda: renew_in(directory, names, now, days=days)), as_json=json)
    return OK


@app.command
def show(directory: Directory, /, *, json: Json = False) -> int:
    """List the certificates of a directory; with --json one a line. Exit status 1 when one has a problem."""
    from bulletin.trust.directory import load

    entries = _try(lambda: load(directory, _now()))
    _show(entries, as_json=json)
    return FAILED if any(entry.problems for entry in entries) else OK


def _try(work: Any) -> Any:  # noqa: ANN401 - passes on what it is given
    from bulletin.trust.contexts import TrustError

    try:
        return work()
    except TrustError as error:
        raise CommandFailed(str(error), "bulletin certs --help", FAILED) from error


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _names_of_this_machine(name: str) -> Sequence[str]:
    """The host's name, if it could be one in a certificate."""
    import re

    return [name] if re.fullmatch(r"[A-Za-z0-9.-]+", name) else []


def _day(entry: Entry) -> str:
    return f"{entry.certificate.not_after:%Y-%m-%d}"


def _show(entries: Sequence[Entry], *, as_json: bool) -> None:
    if as_json:
        for entry in entries:
            printing.print_json(_value(entry))
        return
    rows = [
        (
            entry.certificate.name,
            _purpose(entry),
            ", ".join(entry.certificate.hosts) or "-",
            f"{_day(entry)}{_soon(entry)}",
            str(entry.files.cert),
            ", ".join(entry.problems) or "-",
        )
        for entry in entries
    ]
    printing.print_table(("NAME", "FOR", "HOSTS", "GOOD UNTIL", "FILE", "PROBLEMS"), rows)


def _purpose(entry: Entry) -> str:
    certificate = entry.certificate
    if certificate.is_authority:
        return "authority"
    if certificate.may_serve:
        return _BOARD
    return ", ".join(sorted(role.value for role in certificate.roles)) or "-"


def _soon(entry: Entry) -> str:
    left = entry.certificate.not_after - _now()
    return f" ({max(0, left.days)} days)" if left.days < _SOON_DAYS else ""


def _value(entry: Entry) -> dict[str, Any]:
    certificate = entry.certificate
    return {
        "name": certificate.name,
        "for": "authority" if certificate.is_authority else certificate.purpose.value,
        "roles": sorted(role.value for role in certificate.roles),
        "hosts": list(certificate.hosts),
        "key_type": certificate.key_kind,
        "serial": f"{certificate.serial:x}",
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "cert": str(entry.files.cert),
        "key": str(entry.files.key) if entry.files.key.exists() else None,
        "problems": list(entry.problems),
    }


def _say_what_next(directory: Path, hosts: Sequence[str], cell: str, callers: Sequence[str]) -> None:
    """The exact commands that use what was just made."""
    listen = f"0.0.0.0:{_PORT}" if hosts else f"127.0.0.1:{_PORT}"
    host = hosts[0] if hosts else "localhost"
    url = f"https://[{host}]:{_PORT}" if ":" in host else f"https://{host}:{_PORT}"

    def file(name: str) -> str:
        return shlex.quote(str(directory / name))

    def identity(name: str) -> str:
        return f"--ca {file('ca.pem')} --cert {file(f'{name}.pem')} --key {file(f'{name}.key')}"

    tls = f"--tls-ca {file('ca.pem')} --tls-cert {file('board.pem')} --tls-key {file('board.key')}"
    lines = [
        "",
        "The board, on its machine with ca.pem, board.pem and board.key:",
        f"  bulletin board --listen {listen} {tls}",
        f"A cell, on its machine with ca.pem, {cell}.pem and {cell}.key:",
        f"  bulletin cell --board {url} {identity(cell)}",
    ]
    if callers:
        lines += ["A call:", f"  bulletin task list --board {url} {identity(callers[0])}"]
    lines.append(f"Then take {file('ca.key')} to a safe place; only `bulletin certs issue` and `renew` need it.")
    printing.say("\n".join(lines))
