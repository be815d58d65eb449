"""Root file systems as layers: a directory, an archive or a lone busybox becomes the tar stream of one layer.

Archives are only ever *written* here, or passed on as bytes; reading them is left to umoci, which keeps every entry
inside the tree. Equal sources give equal bytes: entries are sorted, and no clock, user name or inode goes in.
Everything blocks and belongs on a worker thread.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, cast

from bulletin.cell.images.layout import LayerWriter

__all__ = ["BUSYBOX_ENV", "SourceUnusable", "pack_archive", "pack_busybox", "pack_directory", "require_static"]

_CHUNK_BYTES: Final = 1024 * 1024
_BLOCK_BYTES: Final = 512

#: The environment of the image made from a lone busybox.
BUSYBOX_ENV: Final = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)

#: (name, mode, uid and gid) of its directories. vcap, uid 2000, is the user tasks are run as by convention.
_BUSYBOX_DIRECTORIES: Final = (
    ("bin", 0o755, 0),
    ("dev", 0o755, 0),
    ("etc", 0o755, 0),
    ("home", 0o755, 0),
    ("home/vcap", 0o755, 2000),
    ("proc", 0o555, 0),
    ("root", 0o700, 0),
    ("run", 0o755, 0),
    ("sys", 0o555, 0),
    ("tmp", 0o1777, 0),
    ("usr", 0o755, 0),
    ("var", 0o755, 0),
    ("var/tmp", 0o1777, 0),
)
#: Programs are looked for under these names too.
_BUSYBOX_LINKS: Final = (("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin"))
_BUSYBOX_FILES: Final = (
    (
        "etc/group",
        b"root:x:0:\nvcap:x:2000:\nnobody:x:65534:\n",
    ),
    (
        "etc/passwd",
        (
            b"root:x:0:0:root:/root:/bin/sh\n"
            b"vcap:x:2000:2000:vcap:/home/vcap:/bin/sh\n"
            b"nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
        ),
    ),
)
_APPLET = re.compile(r"[A-Za-z0-9_.\[-]+")

#: Attributes that mean something in another place; the others belong to this machine's security modules.
_XATTR_PREFIXES: Final = ("security.capability", "user.")

_ELF_MAGIC: Final = b"\x7fELF"
_ELF_HEADER_BYTES: Final = 64
_ELF_CLASS_64: Final = 2
_ELF_INTERPRETER: Final = 3


class SourceUnusable(Exception):
    """No image can be made of it; the text is shown to users."""


def pack_directory(source: Path, writer: LayerWriter, entries_max: int) -> None:
    """Write the tree below ``source`` as a tar.

    Its own mode and owner are left out: the root of an image is everybody's, a scratch directory often is not.
    Other file systems mounted below it are left out, as are sockets and device nodes, which no container could use.

    Raises:
        SourceUnusable: it cannot be read, changes meanwhile or has too many entries.
    """
    linked: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=cast(IO[bytes], writer), mode="w", format=tarfile.PAX_FORMAT) as archive:
        for count, (name, status) in enumerate(_walk(source)):
            if count >= entries_max:
                raise SourceUnusable(f"the tree has more than {entries_max} entries")
            entry = _entry(name, status)
            path = source / name
            entry.pax_headers = _extended_attributes(path)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG:
                _pack_file(archive, entry, path, status, linked)
            elif kind in (stat.S_IFDIR, stat.S_IFIFO):
                entry.type = tarfile.DIRTYPE if kind == stat.S_IFDIR else tarfile.FIFOTYPE
                archive.addfile(entry)
            elif kind == stat.S_IFLNK:
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
                archive.addfile(entry)


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry below ``root`` as (relative name, lstat), parents first, siblings sorted, one file system only."""
    device = os.lstat(root).st_dev
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        with os.scandir(root / directory) as scan:
            names = sorted(entry.name for entry in scan)
        below = []
        for name in names:
            relative = f"{directory}/{name}" if directory else name
            status = os.lstat(root / relative)
            yield relative, status
            if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                below.append(relative)
        waiting.extend(reversed(below))


def _entry(name: str, status: os.stat_result) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode = stat.S_IMODE(status.st_mode)
    entry.uid, entry.gid = status.st_uid, status.st_gid
    entry.mtime = int(status.st_mtime)
    return entry


def _pack_file(
    archive: tarfile.TarFile,
    entry: tarfile.TarInfo,
    path: Path,
    status: os.stat_result,
    linked: dict[tuple[int, int], str],
) -> None:
    identity = (status.st_dev, status.st_ino)
    if identity in linked:
        entry.type, entry.linkname = tarfile.LNKTYPE, linked[identity]
        archive.addfile(entry)
        return
    if status.st_nlink > 1:
        linked[identity] = entry.name
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        opened = os.fstat(fd)
        if (opened.st_dev, opened.st_ino) != identity:
            raise SourceUnusable(f"{entry.name!a} changed while it was read")
        entry.size = opened.st_size
        archive.addfile(entry, file)


def _extended_attributes(path: Path) -> dict[str, str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {
            f"SCHILY.xattr.{name}": os.getxattr(path, name, follow_symlinks=False).decode("utf-8", "surrogateescape")
            for name in sorted(names)
            if name.startswith(_XATTR_PREFIXES)
        }
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise


def pack_archive(source: Path, writer: LayerWriter) -> None:
    """Write the tar stream inside ``source``: a plain tar, or one compressed by gzip, bzip2 or xz.

    Raises:
        SourceUnusable: it is something else, or damaged.
    """
    fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SourceUnusable("it is neither a file nor a directory")
        try:
            with _decompressed(file) as stream:
                chunk = stream.read(_CHUNK_BYTES)
                if not _is_tar(chunk[:_BLOCK_BYTES]):
                    raise SourceUnusable("it is no tar archive, neither plain nor compressed by gzip, bzip2 or xz")
                while chunk:
                    writer.write(chunk)
                    chunk = stream.read(_CHUNK_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError) as error:
            raise SourceUnusable("the archive is damaged") from error


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    start = file.peek(6)[:6]
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb"))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    return file


def _is_tar(block: bytes) -> bool:
    """Whether the header's checksum is right: the one thing every dialect of tar has."""
    if len(block) < _BLOCK_BYTES:
        return False
    try:
        written = int(block[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        return False
    return written == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def require_static(binary: Path) -> None:
    """Check that a program needs nothing but itself.

    Raises:
        SourceUnusable: it is no ELF program, or wants a dynamic loader.
    """
    if not binary.is_file() or not os.access(binary, os.X_OK):
        raise SourceUnusable("it is no program")
    with open(binary, "rb") as file:
        head = file.read(_ELF_HEADER_BYTES)
        if len(head) < _ELF_HEADER_BYTES or not head.startswith(_ELF_MAGIC):
            raise SourceUnusable("it is no program")
        wide = head[4] == _ELF_CLASS_64
        order: Final = "little" if head[5] == 1 else "big"
        at, width = (32, 8) if wide else (28, 4)
        table = int.from_bytes(head[at : at + width], order)
        size_at = 54 if wide else 42
        size = int.from_bytes(head[size_at : size_at + 2], order)
        count = int.from_bytes(head[size_at + 2 : size_at + 4], order)
        if table + size * count > os.fstat(file.fileno()).st_size:
            raise SourceUnusable("it is no program")
        file.seek(table)
        headers = file.read(size * count)
    kinds = {int.from_bytes(headers[n * size : n * size + 4], order) for n in range(count)}
    if _ELF_INTERPRETER in kinds:
        raise SourceUnusable("it is not statically linked, so it would not run alone")


def pack_busybox(binary: Path, listing: str, writer: LayerWriter) -> None:
    """Write a root file system around one static busybox.

    Args:
        binary: the program.
        listing: what ``busybox --list`` said: one applet a line.
        writer: takes the tar.

    Raises:
        SourceUnusable: the program or the list is not as it should be.
    """
    require_static(binary)
    applets = sorted(set(listing.split()) - {"busybox"})
    if "sh" not in applets or not all(_APPLET.fullmatch(applet) for applet in applets):
        raise SourceUnusable("its list of applets is not that of a busybox with a shell")
    program = binary.read_bytes()
    with tarfile.open(fileobj=cast(IO[bytes], writer), mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode, owner in _BUSYBOX_DIRECTORIES:
            _add(archive, name, mode, kind=tarfile.DIRTYPE, owner=owner)
        for name, content in _BUSYBOX_FILES:
            _add(archive, name, 0o644, content=content)
        for name, target in _BUSYBOX_LINKS:
            _add(archive, name, 0o777, kind=tarfile.SYMTYPE, target=target)
        _add(archive, "bin/busybox", 0o755, content=program)
        for applet in applets:
            _add(archive, f"bin/{applet}", 0o777, kind=tarfile.SYMTYPE, target="busybox")


def _add(
    archive: tarfile.TarFile,
    name: str,
    mode: int,
    *,
    kind: bytes = tarfile.REGTYPE,
    owner: int = 0,
    content: bytes = b"",
    target: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.uid, entry.gid = kind, mode, owner, owner
    entry.size, entry.linkname = len(content), target
    archive.addfile(entry, io.BytesIO(content))
