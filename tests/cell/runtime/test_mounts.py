"""mounts.py: real mounts in a namespace of the test's own."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.skips import needs_root

from bulletin.cell.runtime import mounts
from bulletin.cell.runtime.namespace import MountNamespace
from bulletin.cell.runtime.spec import IdRange

pytestmark = [needs_root, pytest.mark.system]
IDS = IdRange(100_000, 65_536)


@pytest.fixture
async def namespace():
    made = MountNamespace()
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize(("ids", "owner"), [(None, 7), (IDS, 100_007)])
def test_the_upper_directory_takes_after_the_image(tmp_path, ids, owner):
    image = tmp_path / "image"
    image.mkdir()
    os.chown(image, 7, 0)
    image.chmod(0o1751)
    mounts.prepare_upper(str(tmp_path / "made"), image, ids)
    upper = (tmp_path / "made/upper").stat()
    assert (upper.st_uid, upper.st_mode & 0o7777) == (owner, 0o1751)
    assert upper.st_gid == (0 if ids is None else 100_000)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


async def test_nobody_writes_to_what_is_shown_read_only(tmp_path, namespace):
    (tmp_path / "source").write_text("original")

    def attempt():
        mounts.show_read_only(str(tmp_path / "source"), str(tmp_path / "shown"))
        try:
            (tmp_path / "shown").write_text("changed")
        except OSError as error:
            return error.errno, (tmp_path / "shown").read_text()
        return None

    assert await namespace.run(attempt) == (errno.EROFS, "original")


async def test_the_private_directory(tmp_path, namespace):
    path = tmp_path / "a/private"

    def attempt():
        mounts.make_private_directory(str(path))
        (path / "file").touch()
        return path.stat().st_mode & 0o777

    assert await namespace.run(attempt) == 0o711
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("name", ["plain", "with space", "a:b", "c,d", "e\\f", "g=h", "i\nj", "upperdir=x,lowerdir=y"])
async def test_a_root_whatever_the_names_are(tmp_path, namespace, name):
    base = tmp_path / name
    (base / "image/etc").mkdir(parents=True)
    (base / "image/etc/file").write_text("image")
    target = tmp_path / "target"
    target.mkdir()

    def attempt():
        mounts.prepare_upper(str(base / "made"), base / "image", None)
        mounts.mount_root(str(base / "made"), base / "image", str(target), None, privileged=False)
        try:
            (target / "etc/file").write_text("changed")
            flags = next(
                line for line in Path("/proc/thread-self/mountinfo").read_text().splitlines() if str(target) in line
            )
            return (target / "etc/file").read_text(), os.getcwd(), flags.split()[5]
        finally:
            mounts.unmount(str(target))

    text, cwd, flags = await namespace.run(attempt)
    assert (text, cwd) == ("changed", "/")
    assert {"nosuid", "nodev"} <= set(flags.split(","))
    assert (base / "image/etc/file").read_text() == "image"
    assert (base / "made/upper/etc/file").read_text() == "changed"


async def test_unmounting_what_is_in_use_or_not_there(tmp_path, namespace):
    def attempt():
        mounts.unmount(str(tmp_path / "none"))
        mounts.unmount(str(tmp_path))
        mounts.make_private_directory(str(tmp_path / "busy"))
        held = os.open(tmp_path / "busy", os.O_PATH | os.O_CLOEXEC)
        mounts.unmount(str(tmp_path / "busy"))
        os.close(held)
        return str(tmp_path / "busy") in Path("/proc/thread-self/mountinfo").read_text()

    assert await namespace.run(attempt) is False


async def test_trying_a_root_leaves_nothing(tmp_path, namespace):
    await namespace.run(lambda: mounts.try_root(str(tmp_path), None, None))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        await namespace.run(lambda: mounts.try_root(str(tmp_path), 9999, IDS))
    assert list(tmp_path.iterdir()) == []
