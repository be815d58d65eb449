"""``bulletin image``: the images that lie ready on this machine's cell."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from cyclopts import App, Parameter

from bulletin.cli import printing
from bulletin.cli.exits import FAILED, OK, USAGE, CommandFailed
from bulletin.cli.options import DEFAULT_DATA, DataDirectory, Json, quiet_logs, run_async

if TYPE_CHECKING:
    from bulletin.cell.images.index import ImageRecord
    from bulletin.cell.images.store import ImageStore

__all__ = ["app"]

_T = TypeVar("_T")

EPILOGUE: Final = """\
Examples:
  bulletin image pull busybox:1.36
  bulletin image import tools ./rootfs
  bulletin image import busybox busybox:/bin/busybox
  bulletin image import app:v1 app.tar.gz
  bulletin image list

A source is a directory with a root file system, a tar of one, an archive that
docker or skopeo wrote, an OCI layout (oci:/srv/layout:v1), or one static
program (busybox:/bin/busybox). These commands work on the files of this
machine's cell (--data), whether it runs or not."""

app = App(name="image", help="Pull, import, list and remove images of this machine.", help_epilogue=EPILOGUE)


@app.command
def pull(
    image: Annotated[
        str, Parameter(help="busybox, busybox:1.36, registry.example.com:5000/team/app:v1, or a docker URL.")
    ],
    /,
    *,
    username: Annotated[str, Parameter(help="For the registry.")] = "",
    password_file: Annotated[
        Path | None, Parameter(help="File with the password on its first line; BULLETIN_IMAGE_PASSWORD does as well.")
    ] = None,
    data: DataDirectory = DEFAULT_DATA,
    json: Json = False,
) -> int:
    """Fetch an image from its registry, even if one of its name is here."""
    password = _read_password(username, password_file)

    async def work(store: ImageStore) -> ImageRecord:
        return await store.pull(image, printing.say, username=username, password=password)

    return _show(_with_store(data, work), as_json=json)


@app.command(name="import")
def import_(
    name: Annotated[str, Parameter(help="What to call it: tools, app:v1, registry.example.com/team/app:v1.")],
    source: Annotated[str, Parameter(help="Where it comes from; see below.")],
    /,
    *,
    data: DataDirectory = DEFAULT_DATA,
    json: Json = False,
) -> int:
    """Make an image of files of this machine; tasks then name it like any other."""

    async def work(store: ImageStore) -> ImageRecord:
        return await store.import_image(name, source, printing.say)

    return _show(_with_store(data, work), as_json=json)


@app.command(name="list")
def list_(*, data: DataDirectory = DEFAULT_DATA, json: Json = False) -> int:
    """List the images of this machine; with --json one image a line."""

    async def work(store: ImageStore) -> tuple[ImageRecord, ...]:
        return await store.list()

    records = _with_store(data, work)
    if json:
        for record in records:
            printing.print_json(_value(record))
        return OK
    from bulletin.cli.panels import show_time

    rows = [
        (
            record.name + (" (private)" if record.private else ""),
            record.digest[:_DIGEST_CHARACTERS],
            record.origin.value,
            _show_bytes(record.stored_bytes),
            _show_bytes(record.unpacked_bytes),
            show_time(record.added_at_ns)[:_MINUTE_CHARACTERS],
        )
        for record in records
    ]
    columns = ("IMAGE", "DIGEST", "ORIGIN", "STORED", "UNPACKED", "ADDED")
    printing.print_table(columns, rows, right=frozenset({"STORED", "UNPACKED"}))
    return OK


@app.command
def remove(
    image: Annotated[str, Parameter(help="As `bulletin image list` shows it, or any other way to write it.")],
    /,
    *,
    data: DataDirectory = DEFAULT_DATA,
) -> int:
    """Forget an image; its files go as soon as no container stands on them."""

    async def work(store: ImageStore) -> None:
        await store.remove(image)

    _with_store(data, work)
    printing.say(f"removed {printing.harmless(image)}")
    return OK


#: ``sha256:`` and enough digits to tell images apart.
_DIGEST_CHARACTERS: Final = 19
#: Of a time, up to the minute.
_MINUTE_CHARACTERS: Final = 16


def _with_store(data: Path, work: Callable[[ImageStore], Coroutine[object, object, _T]]) -> _T:
    from bulletin.cell.images.api import ImageRefused
    from bulletin.cell.images.settings import ImageSettings
    from bulletin.cell.images.store import ImageStore

    quiet_logs()

    async def opened() -> _T:
        async with ImageStore(data / "cell" / "images", ImageSettings()) as store:
            return await work(store)

    try:
        return run_async(opened())
    except ImageRefused as error:
        raise CommandFailed(
            str(error), "check the name, the registry and the network; `bulletin doctor` checks the tools", FAILED
        ) from error


def _show(record: ImageRecord, *, as_json: bool) -> int:
    if as_json:
        printing.print_json(_value(record))
    else:
        printing.say(f"{record.name}  {record.digest}  {_show_bytes(record.unpacked_bytes)} unpacked")
    return OK


def _value(record: ImageRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "digest": record.digest,
        "origin": record.origin.value,
        "private": record.private,
        "stored_bytes": record.stored_bytes,
        "unpacked_bytes": record.unpacked_bytes,
        "added_at_ns": record.added_at_ns,
    }


def _show_bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "K", "M"):
        if amount < 1024:
            return f"{amount:.1f}".removesuffix(".0") + unit
        amount /= 1024
    return f"{amount:.1f}".removesuffix(".0") + "G"


def _read_password(username: str, file: Path | None) -> str:
    """The password for a pull: never an argument, which every process of the machine can read."""
    import os

    if file is not None:
        try:
            password = file.read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(
                f"{file} cannot be read", "name a file with the password on its first line", USAGE
            ) from error
    else:
        password = os.environ.get("BULLETIN_IMAGE_PASSWORD", "") if username else ""
    if bool(username) != bool(password):
        raise CommandFailed(
            "user name and password go together",
            "pass --username and --password-file (or BULLETIN_IMAGE_PASSWORD)",
            USAGE,
        )
    return password
