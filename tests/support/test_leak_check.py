"""The leak check sees what is left behind: a check that cannot fail proves nothing."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from support.leaks import Leak, LeakCheck
from support.processes import MARK, children, descendants, marked
from support.skips import needs_command, needs_root


def kinds(check: LeakCheck) -> set[str]:
    return {leak.kind for leak in check.found()}


def test_nothing_left_is_clean(tmp_path: Path) -> None:
    (tmp_path / "before").touch()
    LeakCheck(directories=[tmp_path], descriptors=True).assert_clean(within_seconds=0)


def test_a_file_is_seen(tmp_path: Path) -> None:
    check = LeakCheck(directories=[tmp_path])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").touch()
    assert check.found() == [Leak("file", str(tmp_path / "deep")), Leak("file", str(tmp_path / "deep" / "file"))]
    with pytest.raises(AssertionError, match="deep/file"):
        check.assert_clean(within_seconds=0)


def test_a_descriptor_is_seen(tmp_path: Path) -> None:
    check = LeakCheck(descriptors=True)
    with (tmp_path / "open").open("w"):
        assert [leak.kind for leak in check.found()] == ["descriptor"]
    check.assert_clean(within_seconds=0)


def test_a_child_is_seen_until_it_is_gone() -> None:
    check = LeakCheck()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(os.getpid())
        assert child.pid in descendants(os.getpid())
        assert kinds(check) == {"process"}
    check.assert_clean(within_seconds=0)


def test_an_orphan_is_found_by_its_mark() -> None:
    """A process whose parent is gone hangs below init: only its environment tells whose it was."""
    mark = f"orphan-{os.getpid()}"
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0)"
    read_end, write_end = os.pipe()
    try:
        subprocess.run([sys.executable, "-c", script], stdin=read_end, check=True, env={**os.environ, MARK: mark})
        (orphan,) = marked(mark)
        assert orphan not in descendants(os.getpid())
        descriptor = os.pidfd_open(orphan)
    finally:
        os.close(read_end)
        os.close(write_end)  # the orphan reads the end of its input and ends
    try:
        assert select.select([descriptor], [], [], 30)[0], "the orphan did not end"
    finally:
        os.close(descriptor)
    assert orphan not in marked(mark)


@pytest.mark.system
@needs_root
def test_a_cgroup_is_seen() -> None:
    check = LeakCheck(scope="leak-check")
    cgroup = Path("/sys/fs/cgroup/pids/bulletin-leak-check")
    if not cgroup.parent.is_dir():
        cgroup = Path("/sys/fs/cgroup/bulletin-leak-check")
    cgroup.mkdir()
    try:
        assert check.found() == [Leak("cgroup", str(cgroup))]
    finally:
        cgroup.rmdir()
    check.assert_clean(within_seconds=0)


@pytest.mark.system
@needs_root
@needs_command("mount", "umount")
def test_a_mount_is_seen(tmp_path: Path) -> None:
    point = tmp_path / "a mount"
    point.mkdir()
    check = LeakCheck(directories=[tmp_path])
    subprocess.run(["mount", "-t", "tmpfs", "leak-check", str(point)], check=True)
    try:
        assert check.found() == [Leak("mount", str(point))]
    finally:
        subprocess.run(["umount", str(point)], check=True)
    check.assert_clean(within_seconds=0)


@pytest.mark.system
@needs_root
@needs_command("ip")
def test_a_network_link_is_seen() -> None:
    check = LeakCheck()
    name = f"leak{os.getpid() % 100_000}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    try:
        assert {Leak("network link", name), Leak("network link", f"{name}p")} <= set(check.found())
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)
