"""Images that come from this machine: a directory, an archive, an OCI layout or a lone busybox becomes a layout.

A source is a path, or a path behind one of the prefixes of ``SourceKind`` where the path alone would not tell:

    /srv/rootfs            a root file system, or an OCI layout if it has a file oci-layout
    app.tar.gz             a root file system, or what ``docker save`` or ``skopeo copy oci-archive:`` wrote
    oci:/srv/layout:v1     the image named v1 of a layout that holds several
    busybox:/bin/busybox   a root file system around one static program

The same source gives the same digest every time.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from bulletin.cell.images import packing
from bulletin.cell.images.fetching import explain_failure, last_words, skopeo_copy
from bulletin.cell.images.layout import (
    Layer,
    LayerWriter,
    Manifest,
    check_manifests,
    create_layout,
    read_layout,
    write_image,
)
from bulletin.cell.images.packing import SourceUnusable
from bulletin.cell.images.repository import Workspace
from bulletin.cell.images.settings import ImageSettings
from bulletin.cell.images.tools import Progress, Usage, finish, measure, run_tool, walk, watch_disk
from bulletin.cell.images.unpacking import unpack_image

__all__ = ["ImportSource", "SourceKind", "build_layout", "parse_source"]

_LIST_SECONDS_MAX: Final = 10.0
#: What tells an archive of an image from one of a root file system, with and without the ``./`` some writers put.
_MARKS: Final = ("manifest.json", "./manifest.json", "oci-layout", "./oci-layout")


class SourceKind(Enum):
    """What a source is; the values are the prefixes that say so."""

    ROOTFS = "rootfs"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    BUSYBOX = "busybox"


@dataclass(frozen=True, slots=True)
class ImportSource:
    """Where to import from."""

    path: Path
    #: None: to be found out.
    kind: SourceKind | None = None
    #: Which image of a layout or an archive; empty for its only one.
    tag: str = ""


def parse_source(text: str) -> ImportSource:
    """Read a source as people write it."""
    prefix, colon, rest = text.partition(":")
    if not colon or prefix not in {kind.value for kind in SourceKind}:
        return ImportSource(Path(text))
    kind = SourceKind(prefix)
    if kind in (SourceKind.ROOTFS, SourceKind.BUSYBOX):
        return ImportSource(Path(rest), kind)
    path, _, tag = rest.partition(":")
    return ImportSource(Path(path), kind, tag)


async def build_layout(
    source: ImportSource, layout: Path, workspace: Workspace, settings: ImageSettings, progress: Progress
) -> Manifest:
    """Make a layout with one image of a source.

    Raises:
        SourceUnusable: no image can be made of it.
        FetchFailed: skopeo could not read it.
        LayoutBroken: it is no proper image, or too large a root file system.
        ToolFailed, TooLarge: as the tools say.
    """
    # One name without a colon for whatever path was given: skopeo takes a colon for the start of a tag.
    link = workspace.path / "source"
    link.symlink_to(source.path.absolute())
    if not link.exists():
        raise SourceUnusable("there is nothing of that name")
    kind = source.kind or await _detect(link, workspace, settings)
    progress(f"reading {source.path} as {kind.value}")
    if kind is SourceKind.ROOTFS:
        return await _build_rootfs(link, layout, settings)
    if kind is SourceKind.BUSYBOX:
        return await _build_busybox(link, layout, workspace, settings)
    if kind is SourceKind.OCI_ARCHIVE:
        kind, link = SourceKind.OCI, await _extract(link, workspace, settings, progress)
    if kind is SourceKind.OCI:
        await asyncio.to_thread(check_manifests, link)
    location = f"{kind.value}:{link}" + (f":{source.tag}" if source.tag else "")
    return await _copy(location, str(source.path), layout, workspace, settings)


async def _detect(path: Path, workspace: Workspace, settings: ImageSettings) -> SourceKind:
    if (kind := _directory_kind(path)) is not None:
        return kind
    # Reading archives is left to programs made for hostile ones. A mark that is not there makes tar fail, too.
    listed = await run_tool(
        workspace,
        ("tar", "--list", "--file", str(path), "--", *_MARKS),
        timeout_seconds=settings.pull_seconds_max,
        file_bytes_max=settings.image_bytes_max,
    )
    marks = {line.removeprefix("./") for line in listed.stdout.decode("utf-8", errors="replace").splitlines()}
    if "manifest.json" in marks:
        return SourceKind.DOCKER_ARCHIVE
    return SourceKind.OCI_ARCHIVE if "oci-layout" in marks else SourceKind.ROOTFS


def _directory_kind(path: Path) -> SourceKind | None:
    if not path.is_dir():
        return None
    return SourceKind.OCI if (path / "oci-layout").is_file() else SourceKind.ROOTFS


async def _build_rootfs(path: Path, layout: Path, settings: ImageSettings) -> Manifest:
    def pack(writer: LayerWriter) -> None:
        source = path.resolve()
        if source.is_dir():
            if layout.resolve().is_relative_to(source):
                raise SourceUnusable("the image store itself lies in it")
            packing.pack_directory(source, writer, settings.image_entries_max)
        else:
            packing.pack_archive(source, writer)

    layer = await _write_layer(layout, settings, pack)
    return await asyncio.to_thread(write_image, layout, layer, ())


async def _build_busybox(path: Path, layout: Path, workspace: Workspace, settings: ImageSettings) -> Manifest:
    # A busybox does what its name says, so it gets the name under which it lists its applets.
    program = workspace.path / "busybox"
    os.rename(path, program)
    await asyncio.to_thread(packing.require_static, program)
    listed = await run_tool(workspace, (str(program), "--list"), timeout_seconds=_LIST_SECONDS_MAX, file_bytes_max=0)
    listing = listed.stdout.decode("ascii", errors="replace")

    def pack(writer: LayerWriter) -> None:
        packing.pack_busybox(program, listing, writer)

    layer = await _write_layer(layout, settings, pack)
    return await asyncio.to_thread(write_image, layout, layer, packing.BUSYBOX_ENV)


async def _extract(archive: Path, workspace: Workspace, settings: ImageSettings, progress: Progress) -> Path:
    """Unpack the archive of a layout.

    skopeo would do it, but follows links the archive itself brings, out of the directory it unpacks to. umoci does
    not; so the archive is made the only layer of an image, which umoci unpacks.
    """
    wrapped = workspace.path / "wrapped"
    layer = await _write_layer(wrapped, settings, lambda writer: packing.pack_archive(archive, writer))
    manifest = await asyncio.to_thread(write_image, wrapped, layer, ())
    await unpack_image(wrapped, manifest, workspace.path / "archive", workspace, settings, progress)
    extracted = workspace.path / "archive" / "rootfs"

    def check() -> None:
        for _, status in walk(extracted):
            if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
                raise SourceUnusable("the archive of an image holds more than files")

    await asyncio.to_thread(check)
    return extracted


async def _write_layer(layout: Path, settings: ImageSettings, pack: Callable[[LayerWriter], None]) -> Layer:
    """Write a layer on a worker thread; cancelling ends the writing and waits for that.

    Raises:
        SourceUnusable: also for what the system says while the source is read.
    """
    stop = threading.Event()

    def work() -> Layer:
        create_layout(layout)
        try:
            with LayerWriter(layout, settings.image_bytes_max, stop) as writer:
                pack(writer)
                return writer.finish()
        except OSError as error:
            raise SourceUnusable(f"it cannot be read: {error.strerror or error}") from error

    writing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        stop.set()
        await finish(asyncio.wait((writing,)))
        writing.exception()
        raise


async def _copy(location: str, shown: str, layout: Path, workspace: Workspace, settings: ImageSettings) -> Manifest:
    def look() -> Usage:
        # An archive is unpacked beside the layout before it is copied.
        return measure(workspace.path, 2 * settings.image_bytes_max, settings.image_entries_max, own_only=True)

    tool = run_tool(
        workspace,
        skopeo_copy(location, layout, workspace, settings),
        timeout_seconds=settings.pull_seconds_max,
        file_bytes_max=settings.image_bytes_max,
    )
    finished = await watch_disk(tool, look, lambda _: None)
    if finished.status != 0:
        words = last_words(finished.stderr).replace(f"{workspace.path}/", "")
        raise explain_failure(shown, words)
    return await asyncio.to_thread(read_layout, layout)
