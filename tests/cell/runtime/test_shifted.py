"""shifted.py: copies of images for machines that cannot show ids shifted."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat

import pytest
from support.skips import needs_root

from bulletin.cell.images.api import Image
from bulletin.cell.runtime import linux
from bulletin.cell.runtime.api import ContainerRefused
from bulletin.cell.runtime.shifted import ShiftedImages, shift_ids
from bulletin.cell.runtime.spec import IdRange

pytestmark = needs_root
IDS = IdRange(300_000, 65_536)


@pytest.fixture
def image(tmp_path):
    root = tmp_path / "image"
    (root / "home/vcap").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "bin/su").write_text("su")
    (root / "bin/su").chmod(0o6755)
    os.link(root / "bin/su", root / "bin/su2")
    (root / "link").symlink_to("/etc/passwd")
    (root / "directory").symlink_to("bin")
    os.mkfifo(root / "pipe")
    os.chown(root / "home/vcap", 2000, 2001)
    os.chown(root / "link", 7, 8, follow_symlinks=False)
    (root / "far").touch()
    os.chown(root / "far", 70_000, 65_535)
    return Image(root, (), "sha256:abc")


def owners(root):
    return {
        str(path.relative_to(root)): (path.lstat().st_uid, path.lstat().st_gid) for path in (root, *root.rglob("*"))
    }


EXPECTED = {
    ".": (300_000, 300_000),
    "bin": (300_000, 300_000),
    "bin/su": (300_000, 300_000),
    "bin/su2": (300_000, 300_000),
    "home": (300_000, 300_000),
    "home/vcap": (302_000, 302_001),
    "link": (300_007, 300_008),
    "directory": (300_000, 300_000),
    "pipe": (300_000, 300_000),
    "far": (365_534, 365_535),
}


def test_shifting(image):
    before = os.stat("/etc/passwd")
    shift_ids(str(image.rootfs), IDS)
    assert owners(image.rootfs) == EXPECTED
    assert stat.S_IMODE((image.rootfs / "bin/su").stat().st_mode) == 0o6755
    assert os.stat("/etc/passwd").st_uid == before.st_uid


async def test_a_copy_is_made_once(image, tmp_path):
    original = owners(image.rootfs)
    copies = ShiftedImages(tmp_path / "shifted", IDS)
    one, other = await asyncio.gather(copies.ensure(image), copies.ensure(image))
    assert one == other
    assert owners(one) == EXPECTED
    assert (one / "bin/su").stat().st_ino == (one / "bin/su2").stat().st_ino
    (one / "mark").touch()
    assert (await ShiftedImages(tmp_path / "shifted", IDS).ensure(image) / "mark").exists()
    assert [path.name for path in (tmp_path / "shifted").iterdir()] == [one.name]
    assert owners(image.rootfs) == original
    await copies.close()


async def test_half_a_copy_is_not_taken_for_one(image, tmp_path):
    copies = ShiftedImages(tmp_path / "shifted", IDS)
    whole = await copies.ensure(image)
    whole.rename(whole.with_name(f".removing-{whole.name}"))
    assert owners(await copies.ensure(image)) == EXPECTED
    assert len(list((tmp_path / "shifted").iterdir())) == 1


async def test_cancelling_one_does_not_disturb_the_other(image, tmp_path):
    copies = ShiftedImages(tmp_path / "shifted", IDS)
    one, other = asyncio.ensure_future(copies.ensure(image)), asyncio.ensure_future(copies.ensure(image))
    await asyncio.sleep(0)
    one.cancel()
    assert (await other).is_dir()
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_an_image_that_is_not_there(tmp_path):
    copies = ShiftedImages(tmp_path / "shifted", IDS)
    with pytest.raises(ContainerRefused, match="image cannot be copied"):
        await copies.ensure(Image(tmp_path / "none", (), "sha256:none"))
    with pytest.raises(ContainerRefused, match="image cannot be copied"):
        await copies.ensure(Image(tmp_path / "none", (), "sha256:none"))


@pytest.mark.system
async def test_a_container_on_a_shifted_copy(open_room, monkeypatch):
    """As on a kernel that cannot show ids shifted."""

    def cannot(_path, _namespace):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(linux, "open_idmapped_tree", cannot)
    async with open_room() as room:
        assert room.containers._machine.user_namespace is None
        outcome = await room.run(room.sh("id -u; stat -c %u /etc/passwd /home/vcap; echo x > r"), result="/home/vcap/r")
        assert outcome.out == "2000\n0\n2000\n"
        assert outcome.result == b"x\n"
        assert (await room.run(room.sh("stat -c %u /home/vcap"), privileged=True)).out == "2000\n"
        for copy in room.settings.shifted.iterdir():
            assert copy.stat().st_uid == room.settings.ids.base
            shutil.rmtree(copy)
        room.settings.shifted.rmdir()
