"""Importing from this machine, hostile sources included."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import dataclasses
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bulletin import BUSYBOX

from bulletin.cell.images.api import ImageRefused
from bulletin.cell.images.importing import ImportSource, SourceKind, parse_source
from bulletin.cell.images.index import Origin
from bulletin.cell.images.store import ImageStore

needs_busybox = pytest.mark.skipif(not BUSYBOX.exists(), reason=f"{BUSYBOX} is missing: install busybox-static")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("/srv/rootfs", ImportSource(Path("/srv/rootfs"))),
        ("rootfs.tar.gz", ImportSource(Path("rootfs.tar.gz"))),
        ("odd:name.tar", ImportSource(Path("odd:name.tar"))),
        ("rootfs:/srv/a:b", ImportSource(Path("/srv/a:b"), SourceKind.ROOTFS)),
        ("busybox:/bin/busybox", ImportSource(Path("/bin/busybox"), SourceKind.BUSYBOX)),
        ("oci:/srv/layout", ImportSource(Path("/srv/layout"), SourceKind.OCI)),
        ("oci:/srv/layout:v1", ImportSource(Path("/srv/layout"), SourceKind.OCI, "v1")),
        ("oci-archive:a.tar:v1", ImportSource(Path("a.tar"), SourceKind.OCI_ARCHIVE, "v1")),
        ("docker-archive:a.tar:app:v1", ImportSource(Path("a.tar"), SourceKind.DOCKER_ARCHIVE, "app:v1")),
    ],
)
def test_a_source_is_a_path_with_or_without_a_prefix(text: str, source: ImportSource) -> None:
    assert parse_source(text) == source


# -- busybox ----------------------------------------------------------------------------------------------------


@pytest.mark.system
@needs_busybox
async def test_a_busybox_becomes_an_image_that_runs(store, tree_of) -> None:
    said: list[str] = []
    record = await store.import_image("docker:///busybox", f"busybox:{BUSYBOX}", said.append)
    assert record.name == "docker.io/library/busybox:latest"
    assert record.origin is Origin.IMPORTED
    assert said[:2] == [f"reading {BUSYBOX} as busybox", "unpacking"]
    image = await store.ensure("docker:///busybox", "", "")
    assert dict(image.env)["PATH"].split(":")[-1] == "/bin"
    described = tree_of(image.rootfs)
    assert described["tmp"] == "1777 0 dir"
    assert described["root"] == "700 0 dir"
    assert described["home/vcap"] == "755 2000 dir"
    assert described["bin/sh"] == "777 0 -> busybox"
    assert {"dev", "etc/group", "etc/passwd", "proc", "sys"} <= described.keys()
    script = (
        'echo "$(id -un) $(id -u vcap) $(cat /etc/group | wc -l)"; test -x /usr/bin/env && [ -x /sbin/init ]; echo $?'
    )
    answer = await asyncio.to_thread(
        subprocess.run,
        ["chroot", str(image.rootfs), "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert answer.stdout == "root 2000 3\n0\n"


@pytest.mark.system
@needs_busybox
async def test_the_same_source_gives_the_same_digest(store, settings, tmp_path) -> None:
    first = await store.import_image("one", f"busybox:{BUSYBOX}")
    copy = tmp_path / "some-other-name"
    shutil.copy(BUSYBOX, copy)
    os.utime(copy, (1, 1))
    async with ImageStore(tmp_path / "other-store", settings) as other:
        second = await other.import_image("two:x", f"busybox:{copy}")
    assert first.digest == second.digest


@pytest.mark.system
@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (b"#!/bin/sh\necho sh\n", 0o755, "it is no program"),
        (b"\x7fELF", 0o755, "it is no program"),
        (None, 0o644, "it is no program"),
    ],
)
@needs_busybox
async def test_what_is_no_busybox_is_refused(store, tmp_path, content, mode, text) -> None:
    program = tmp_path / "program"
    program.write_bytes(BUSYBOX.read_bytes() if content is None else content)
    program.chmod(mode)
    with pytest.raises(ImageRefused, match=f"^docker.io/library/x:latest: {text}"):
        await store.import_image("x", f"busybox:{program}")


@pytest.mark.system
async def test_a_dynamic_program_is_refused(store) -> None:
    with pytest.raises(ImageRefused, match="it is not statically linked"):
        await store.import_image("x", f"busybox:{sys.executable}")


# -- root file systems ------------------------------------------------------------------------------------------


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A directory with one of everything."""
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "home").mkdir(mode=0o750)
    os.chown(root / "home", 2000, 3000)
    (root / "su").write_bytes(b"#!")
    (root / "su").chmod(0o4755)
    os.link(root / "su", root / "z-su")
    (root / "way").symlink_to("/etc/passwd")
    (root / "bytes-\udcff").write_bytes(b"odd name")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "su", "user.note", b"\xff\x00x")
    root.chmod(0o700)
    return root


@pytest.mark.system
async def test_a_directory_becomes_an_image(store, rootfs, tree_of) -> None:
    os.mknod(rootfs / "null", 0o666 | 0o020000, os.makedev(1, 3))
    await store.import_image("app:1", str(rootfs))
    image = await store.ensure("docker:///app#1", "", "")
    os.unlink(rootfs / "null")
    assert tree_of(image.rootfs) == tree_of(rootfs)
    assert (image.rootfs / "home").stat().st_gid == 3000
    assert (image.rootfs / "su").stat().st_ino == (image.rootfs / "z-su").stat().st_ino
    assert os.getxattr(image.rootfs / "su", "user.note") == b"\xff\x00x"
    # A scratch directory is closed to others; the root of an image must not be.
    assert image.rootfs.stat().st_mode & 0o777 == 0o755


@pytest.mark.system
async def test_a_directory_gives_the_same_digest_twice(store, rootfs, tmp_path) -> None:
    first = await store.import_image("a", str(rootfs))
    second = await store.import_image("b", f"rootfs:{rootfs}")
    assert first.digest == second.digest
    (rootfs / "new").touch()
    third = await store.import_image("b", str(rootfs))
    assert third.digest != first.digest


@pytest.mark.system
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
async def test_an_archive_of_a_root_file_system_becomes_an_image(store, kit, tmp_path, tree_of, pack) -> None:
    archive = tmp_path / "root:fs.tar"
    archive.write_bytes(pack(kit.tar(kit.directory("./etc"), kit.file("./etc/x", b"x", uid=5))))
    record = await store.import_image("app", str(archive))
    image = await store.ensure("docker:///app", "", "")
    assert tree_of(image.rootfs) == {"etc": "755 0 dir", "etc/x": "644 5 x"}
    assert image.env == ()
    assert record.unpacked_bytes > 0


@pytest.mark.system
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "it is no tar archive"),
        (b"hello" * 1000, "it is no tar archive"),
        (b"\0" * 10240, "it is no tar archive"),
        (gzip.compress(b"hello"), "it is no tar archive"),
        (gzip.compress(b"hello" * 9999)[:-20], "it is no tar archive|the archive is damaged"),
        (b"\x1f\x8b" + b"x" * 100, "the archive is damaged"),
        (b"BZh9" + b"x" * 100, "the archive is damaged|cannot be read"),
        (b"\xfd7zXZ\0" + b"x" * 100, "the archive is damaged"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 100, "it is no tar archive"),
    ],
)
async def test_what_is_no_archive_is_refused(store, tmp_path, content, text) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    with pytest.raises(ImageRefused, match=f"^docker.io/library/app:latest: .*({text})"):
        await store.import_image("app", str(archive))
    assert await store.list() == ()


@pytest.mark.system
async def test_sources_that_cannot_be_read_are_refused(store, tmp_path) -> None:
    with pytest.raises(ImageRefused, match="there is nothing of that name"):
        await store.import_image("app", str(tmp_path / "nowhere"))
    with pytest.raises(ImageRefused, match="it is neither a file nor a directory"):
        await store.import_image("app", "rootfs:/dev/null")
    with pytest.raises(ImageRefused, match="the image store itself lies in it"):
        await store.import_image("app", str(tmp_path))
    with pytest.raises(ImageRefused, match="an image is named by a tag"):
        await store.import_image("app@sha256:" + "0" * 64, str(tmp_path))


@pytest.mark.system
async def test_cancelling_an_import_ends_it(store, rootfs, tmp_path, monkeypatch) -> None:
    reading = asyncio.Event()
    loop = asyncio.get_running_loop()
    go_on = threading.Event()

    def stalled(path: Path) -> dict[str, str]:
        loop.call_soon_threadsafe(reading.set)
        assert go_on.wait(30)
        return {}

    monkeypatch.setattr("bulletin.cell.images.packing._extended_attributes", stalled)
    task = asyncio.create_task(store.import_image("app", str(rootfs)))
    await reading.wait()
    task.cancel()
    loop.call_later(0, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "store" / "work").iterdir()) == []


@pytest.mark.system
@pytest.mark.parametrize(
    ("bound", "text"),
    [
        ({"image_bytes_max": 100_000}, "the image is larger than 100000 bytes"),
        ({"image_entries_max": 5}, "the tree has more than 5 entries"),
    ],
)
async def test_a_root_file_system_over_a_bound_is_refused(rootfs, settings, tmp_path, bound, text) -> None:
    (rootfs / "large").write_bytes(b"\0" * 200_000)
    async with ImageStore(tmp_path / "store", dataclasses.replace(settings, **bound)) as store:
        with pytest.raises(ImageRefused, match=text):
            await store.import_image("app", str(rootfs))
    assert list((tmp_path / "store" / "work").iterdir()) == []


# -- images -----------------------------------------------------------------------------------------------------


@pytest.fixture
def layout(kit, tmp_path) -> Path:
    return kit.image(tmp_path / "lay:out", kit.tar(kit.file("a", b"from an image")), env=("X=1",))


@pytest.mark.system
@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
@pytest.mark.parametrize("said", [True, False])
async def test_images_come_with_their_environment(store, layout, tmp_path, tree_of, transport, said) -> None:
    source = layout
    if transport != "oci":
        plain = tmp_path / "layout"
        layout.rename(plain)
        source = tmp_path / "image.tar"
        await asyncio.to_thread(
            subprocess.run,
            ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{plain}:latest", f"{transport}:{source}:app:v1"],
            check=True,
            timeout=60,
        )
    elif said:
        source = layout.rename(tmp_path / "layout")
    await store.import_image("app", f"{transport}:{source}" if said else str(source))
    image = await store.ensure("docker:///app", "", "")
    assert tree_of(image.rootfs) == {"a": "644 0 from an image"}
    assert image.env == (("X", "1"),)


@pytest.mark.system
async def test_one_of_several_images_is_named(store, kit, tmp_path) -> None:
    layout = kit.image(tmp_path / "several", kit.tar(kit.file("one")))
    one = json.loads((layout / "index.json").read_text())["manifests"][0]
    kit.image(layout, kit.tar(kit.file("two")))
    two = json.loads((layout / "index.json").read_text())["manifests"][0]
    for entry, tag in ((one, "v1"), (two, "v2")):
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [one, two]}))
    record = await store.import_image("app", f"oci:{layout}:v1")
    assert record.digest == one["digest"]
    with pytest.raises(ImageRefused, match="more than one image"):
        await store.import_image("app", f"oci:{layout}")


# -- hostile sources --------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What no image may touch."""
    directory = tmp_path / "outside"
    directory.mkdir(mode=0o750)
    (directory / "canary").write_text("sings")
    (directory / "canary").chmod(0o640)
    return directory


UP = ".." + "/.." * 30


def _pipe(kit) -> tuple[tarfile.TarInfo, bytes]:
    entry, content = kit.file("pipe")
    entry.type = tarfile.FIFOTYPE
    return entry, content


#: Name to the layers that try to reach ``outside``.
ATTACKS: dict[str, Callable[[Any, Path], list[bytes]]] = {
    "dots": lambda kit, o: [kit.tar(kit.file(f"{UP}{o}/evil"))],
    "dots inside": lambda kit, o: [kit.tar(kit.directory("a"), kit.file(f"a/{UP}{o}/evil"))],
    "absolute": lambda kit, o: [kit.tar(kit.file(f"{o}/evil"))],
    "through a link": lambda kit, o: [kit.tar(kit.link("out", str(o)), kit.file("out/evil"))],
    "through a link of another layer": lambda kit, o: [
        kit.tar(kit.link("out", str(o))),
        kit.tar(kit.file("out/evil")),
    ],
    "through a relative link": lambda kit, o: [kit.tar(kit.link("u", UP), kit.file(f"u{o}/evil"))],
    "over a link": lambda kit, o: [kit.tar(kit.link("c", f"{o}/canary"), kit.file("c", b"silent"))],
    "over a link of another layer": lambda kit, o: [
        kit.tar(kit.link("c", f"{o}/canary")),
        kit.tar(kit.file("c", b"silent")),
    ],
    "mode through a link": lambda kit, o: [
        kit.tar(kit.link("out", str(o)), kit.directory("out", mode=0o777, uid=2000)),
    ],
    "hard link out": lambda kit, o: [
        kit.tar(kit.link("h", f"{o}/canary", tarfile.LNKTYPE), kit.file("h", b"silent")),
    ],
    "hard link by dots": lambda kit, o: [
        kit.tar(kit.link("h", f"{UP}{o}/canary", tarfile.LNKTYPE), kit.file("h", b"silent")),
    ],
    "hard link through a link": lambda kit, o: [
        kit.tar(kit.link("out", str(o)), kit.link("h", "out/canary", tarfile.LNKTYPE)),
    ],
    "root is a link": lambda kit, o: [kit.tar(kit.link("./", str(o)), kit.file("evil"))],
    "whiteout through a link": lambda kit, o: [kit.tar(kit.link("out", str(o))), kit.tar(kit.file("out/.wh.canary"))],
    "whiteout by dots": lambda kit, o: [kit.tar(kit.file("x")), kit.tar(kit.file(f"{UP}{o}/.wh.canary"))],
    "whiteout of dots": lambda kit, o: [kit.tar(kit.file("x")), kit.tar(kit.file(".wh..."))],
    "whiteout of the root": lambda kit, o: [kit.tar(kit.file("x")), kit.tar(kit.file(".wh.."))],
    "opaque through a link": lambda kit, o: [kit.tar(kit.link("out", str(o))), kit.tar(kit.file("out/.wh..wh..opq"))],
    "a pipe": lambda kit, o: [kit.tar(_pipe(kit), kit.file("pipe", b"x"))],
    "deep": lambda kit, o: [kit.tar(kit.directory("a/" * 1000))],
    "too deep": lambda kit, o: [kit.tar(kit.directory("a/" * 3000))],
    "long name": lambda kit, o: [kit.tar(kit.file("a" * 300))],
}


def state(outside: Path) -> list[tuple[object, ...]]:
    return [
        (path, path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_nlink, path.lstat().st_mtime_ns)
        for path in (outside, *sorted(outside.rglob("*")))
    ]


@pytest.mark.system
@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_hostile_image_stays_inside(store, kit, tmp_path, outside, attack) -> None:
    layers = ATTACKS[attack](kit, outside)
    layout = kit.image(tmp_path / "hostile", *layers)
    before = state(outside)
    (outcome,) = await asyncio.gather(store.import_image("hostile", str(layout)), return_exceptions=True)
    if isinstance(outcome, ImageRefused):
        assert str(outcome).startswith("docker.io/library/hostile:latest: umoci refuses it: ")
        assert str(tmp_path / "store") not in str(outcome)
        assert await store.list() == ()
    else:
        assert await store.list() == (outcome,)
    assert state(outside) == before
    assert (outside / "canary").read_text() == "sings"
    # A tree may be deeper than the test runner can remove; the store must be able to.
    for record in await store.list():
        await store.remove(record.name)
    await store.close()
    assert list((tmp_path / "store" / "trees").iterdir()) == []


@pytest.mark.system
async def test_device_nodes_do_not_get_into_a_tree(store, kit, tmp_path, tree_of) -> None:
    layer = kit.tar(
        kit.directory("dev"),
        kit.device("dev/null", tarfile.CHRTYPE, 1, 3),
        kit.device("disk", tarfile.BLKTYPE, 8, 0),
        kit.device("removed", tarfile.CHRTYPE, 0, 0),
        kit.file("kept", b"x", SCHILY__xattr__trusted__overlay__redirect="/dev", SCHILY__xattr__user__a="b"),
    )
    (tmp_path / "layer.tar").write_bytes(layer)
    await store.import_image("devices", str(tmp_path / "layer.tar"))
    image = await store.ensure("docker:///devices", "", "")
    assert tree_of(image.rootfs) == {"dev": "755 0 dir", "kept": "644 0 x"}
    assert os.listxattr(image.rootfs / "kept") == ["user.a"]


@pytest.mark.system
@pytest.mark.parametrize("kind", ["layer", "config", "manifest"])
async def test_a_layout_with_a_wrong_digest_is_refused(store, layout, kind) -> None:
    for path in (layout / "blobs" / "sha256").iterdir():
        content = path.read_bytes()
        found = {b"\x1f\x8b": "layer", b'{"a': "config", b'{"s': "manifest"}
        if kind == next(name for start, name in found.items() if content.startswith(start)):
            path.write_bytes(content.replace(b"X=1", b"X=2") if kind == "config" else content + b" ")
    with pytest.raises(ImageRefused):
        await store.import_image("app", str(layout))
    assert await store.list() == ()


@pytest.mark.system
@pytest.mark.parametrize("digest", ["sha256:../../../outside/canary", "sha256:x", "../x", "", None])
async def test_a_digest_that_is_a_path_is_refused(store, layout, kit, outside, digest) -> None:
    kit.manifest(layout, b"{}", [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 5}])
    with pytest.raises(ImageRefused):
        await store.import_image("app", str(layout))
    assert await store.list() == ()


@pytest.mark.system
async def test_an_archive_of_an_image_cannot_write_elsewhere(store, kit, layout, tmp_path, outside) -> None:
    entries = [
        kit.file(str(path.relative_to(layout)), path.read_bytes()) for path in layout.rglob("*") if path.is_file()
    ]
    archive = tmp_path / "hostile.tar"
    before = state(outside)
    for evil in (
        [kit.file("../" * 30 + f"{outside}/evil".lstrip("/"))],
        [kit.file(f"{outside}/evil")],
        [kit.link("out", str(outside)), kit.file("out/evil")],
        [kit.link("canary", f"{outside}/canary", tarfile.LNKTYPE)],
    ):
        archive.write_bytes(kit.tar(*entries, *evil))
        with contextlib.suppress(ImageRefused):
            await store.import_image("app", f"oci-archive:{archive}")
        assert state(outside) == before


@pytest.mark.system
@pytest.mark.parametrize("trap", ["/dev/zero", "pipe"])
async def test_an_endless_document_is_no_trap(store, layout, trap) -> None:
    (layout / "index.json").unlink()
    if trap == "pipe":
        os.mkfifo(layout / "index.json")
    else:
        (layout / "index.json").symlink_to(trap)
    with pytest.raises(ImageRefused, match="a document of the image is too long or no file"):
        await store.import_image("app", str(layout))
