from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bulletin import BUSYBOX
from support.skips import needs_root

from bulletin.cell.images.layout import LayerWriter, blob_path, create_layout
from bulletin.cell.images.packing import SourceUnusable, pack_busybox, pack_directory, require_static


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[Callable[[LayerWriter], None]], bytes]:
    """What a packing function writes: the compressed layer."""

    def pack(work: Callable[[LayerWriter], None]) -> bytes:
        layout = tmp_path / "layout"
        create_layout(layout)
        with LayerWriter(layout, 10**8, threading.Event()) as writer:
            work(writer)
            layer = writer.finish()
        return blob_path(layout, layer.descriptor.digest).read_bytes()

    return pack


def entries(blob: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob))) as archive:
        return archive.getmembers()


def test_neither_order_nor_time_nor_names_of_users_go_in(packed, tmp_path) -> None:
    source = tmp_path / "source"
    names = [f"{number * 7919 % 101:03}" for number in range(100)]
    for name in names:
        (source / name).mkdir(parents=True)
        (source / name / "file").write_text(name)
    blob = packed(lambda writer: pack_directory(source, writer, 1000))
    found = entries(blob)
    assert [entry.name for entry in found] == sorted(names) + [f"{name}/file" for name in sorted(names)]
    assert {(entry.uname, entry.gname) for entry in found} == {("", "")}
    assert blob[4:8] == b"\0\0\0\0"


def test_too_many_entries_are_refused(packed, tmp_path) -> None:
    source = tmp_path / "source"
    for name in "abc":
        (source / name).mkdir(parents=True)
    packed(lambda writer: pack_directory(source, writer, 3))
    with pytest.raises(SourceUnusable, match="more than 2 entries"):
        packed(lambda writer: pack_directory(source, writer, 2))


def test_a_file_swapped_while_it_is_read_is_refused(packed, tmp_path, monkeypatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("mine")
    (tmp_path / "other").write_text("not mine")
    real_open = os.open

    def swapping(path: object, flags: int, *more: int) -> int:
        if path == source / "file":
            os.replace(tmp_path / "other", source / "file")
        return real_open(path, flags, *more)

    monkeypatch.setattr("bulletin.cell.images.packing.os.open", swapping)
    with pytest.raises(SourceUnusable, match="'file' changed while it was read"):
        packed(lambda writer: pack_directory(source, writer, 10))


def test_a_link_is_packed_as_a_link(packed, tmp_path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "secrets").symlink_to("/etc/shadow")
    (source / "all").symlink_to("/")
    assert [(entry.name, entry.linkname) for entry in entries(packed(lambda w: pack_directory(source, w, 10)))] == [
        ("all", "/"),
        ("secrets", "/etc/shadow"),
    ]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A directory with another file system mounted in it."""
    source = tmp_path / "source"
    (source / "proc").mkdir(parents=True)
    (source / "after").write_text("")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(source / "proc")], check=True)
    try:
        (source / "proc" / "inside").write_text("")
        yield source
    finally:
        subprocess.run(["umount", str(source / "proc")], check=True)


@pytest.mark.system
@needs_root
def test_what_is_mounted_in_it_is_left_out(packed, mounted) -> None:
    found = entries(packed(lambda writer: pack_directory(mounted, writer, 10)))
    assert [entry.name for entry in found] == ["after", "proc"]


@pytest.mark.parametrize("listing", ["", "cat\nls\n", "sh\n../../etc/passwd\n", "sh\na/b\n", "usage: tool\n sh ?\n"])
@pytest.mark.skipif(not BUSYBOX.exists(), reason=f"{BUSYBOX} is missing: install busybox-static")
def test_a_list_that_is_none_of_applets_is_refused(packed, listing) -> None:
    with pytest.raises(SourceUnusable, match="list of applets"):
        packed(lambda writer: pack_busybox(BUSYBOX, listing, writer))


@pytest.mark.parametrize("size", [0, 3, 63, 64, 200])
def test_a_cut_or_senseless_program_is_refused(tmp_path, size) -> None:
    program = tmp_path / "program"
    program.write_bytes((b"\x7fELF\x02\x01" + b"\xff" * 300)[:size])
    program.chmod(0o755)
    with pytest.raises(SourceUnusable, match="it is no program"):
        require_static(program)
