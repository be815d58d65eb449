"""linux.py: the raw calls against the kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest
from support.skips import needs_root

from bulletin.cell.runtime import linux, namespace
from bulletin.cell.runtime.linux import Resolve
from bulletin.cell.runtime.namespace import MountNamespace


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/in").mkdir(parents=True)
    (tmp_path / "root/in/file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    fd = os.open(tmp_path / "root", os.O_PATH)
    yield fd
    os.close(fd)


def read(root, path, resolve=Resolve.IN_ROOT):
    fd = linux.openat2(root, path, os.O_RDONLY, resolve)
    try:
        assert not os.get_inheritable(fd)
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_openat2_opens(root):
    assert read(root, "in/file") == b"inside"
    assert read(root, "/in/../in/file") == b"inside"


@pytest.mark.parametrize("target", ["../secret", "/../secret", "/proc/self/root"])
def test_openat2_stays_in_the_root(root, tmp_path, target):
    (tmp_path / "root/link").symlink_to(target)
    with pytest.raises(FileNotFoundError):
        read(root, "link")
    with pytest.raises(FileNotFoundError):
        read(root, "../secret")


def test_openat2_refuses_what_the_rules_forbid(root, tmp_path):
    (tmp_path / "root/link").symlink_to("in")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        read(root, "link/file", Resolve.NO_SYMLINKS)
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        read(root, "../secret", Resolve.BENEATH)


def test_a_zero_byte_is_no_end(root):
    with pytest.raises(OSError, match="Invalid argument"):
        read(root, "in/file\0x")


@needs_root
def test_errors_name_the_target(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        linux.mount("none", str(tmp_path / "none"), "tmpfs", 0)
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(OSError, match="Invalid argument"):
        linux.umount(str(tmp_path))


@needs_root
@pytest.mark.system
async def test_a_mount_in_the_namespace_is_seen_nowhere_else_and_goes_with_it(tmp_path):
    private = MountNamespace()
    threads = set(threading.enumerate())
    await private.open()
    where = str(tmp_path)

    def mount():
        linux.mount("none", where, "tmpfs", 0)
        (tmp_path / "file").touch()
        return os.listdir(where), os.stat(where).st_dev

    names, device = await private.run(mount)
    assert names == ["file"]
    assert os.listdir(where) == []
    assert os.stat(where).st_dev != device
    assert await asyncio.to_thread(os.listdir, where) == [], "other threads do not see it either"
    fd = await private.run(lambda: os.open(where, os.O_PATH | os.O_CLOEXEC))
    assert os.fstat(fd).st_dev == device
    assert os.stat("file", dir_fd=fd).st_dev == device, "a descriptor opens the way to it"
    os.close(fd)
    await private.close()
    await private.close()
    assert not {thread for thread in threading.enumerate() if thread.name.startswith("mounts")} - threads


@needs_root
@pytest.mark.system
async def test_nothing_goes_out_even_below_a_shared_mount(tmp_path):
    """A namespace made out of one whose mounts tell each other, as most machines are set up."""
    outer = MountNamespace()
    await outer.open()
    shared = 1 << 20

    def inside():
        namespace._enter()
        linux.mount("none", str(tmp_path / "below"), "tmpfs", 0)

    def attempt():
        linux.mount("none", str(tmp_path), "tmpfs", 0)
        linux.mount("none", str(tmp_path), None, shared)
        (tmp_path / "below").mkdir()
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        linux.mount("none", str(tmp_path / "below"), "tmpfs", 0)
        linux.umount(str(tmp_path / "below"))
        return Path("/proc/thread-self/mountinfo").read_text()

    assert str(tmp_path / "below") not in await outer.run(attempt)
    await outer.close()


@needs_root
@pytest.mark.system
async def test_the_namespace_has_a_working_directory_of_its_own(tmp_path):
    private = MountNamespace()
    await private.open()
    before = os.getcwd()
    await private.run(lambda: os.chdir(tmp_path))
    assert await private.run(os.getcwd) == str(tmp_path)
    assert os.getcwd() == before
    await private.close()


async def test_an_error_in_the_namespace_comes_out(tmp_path):
    private = MountNamespace()
    with pytest.raises(ZeroDivisionError):
        await private.run(lambda: 1 // 0)
    await private.close()
    with pytest.raises(RuntimeError):
        await private.run(os.getcwd)
