"""removal.py: trees that were built to be hard to remove."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.skips import needs_root

from bulletin.cell.runtime.removal import remove_tree


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def test_nothing_there_is_well(tmp_path):
    remove_tree(str(tmp_path / "none"))
    remove_tree(str(tmp_path / "none/below"))
    assert left(tmp_path) == []


def test_an_empty_directory(tmp_path):
    (tmp_path / "tree").mkdir()
    remove_tree(str(tmp_path / "tree"))
    assert left(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link", "pipe", "socket"])
def test_something_that_is_no_directory(tmp_path, kind):
    make(tmp_path / "tree", kind)
    remove_tree(str(tmp_path / "tree"))
    assert left(tmp_path) == []


def make(path, kind):
    match kind:
        case "file":
            path.write_text("x")
        case "link":
            path.symlink_to("/etc")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))


def test_all_kinds_and_odd_names(tmp_path):
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    for where in (tree, tree / "below"):
        for kind in ("file", "link", "pipe"):
            make(where / kind, kind)
        for name in (b"-rf", b" ", b"\n", b"\xff\xfe", b"*", b"0", b"1", b"x" * 255):
            os.close(os.open(os.fsencode(where) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    remove_tree(str(tree))
    assert left(tmp_path) == []


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").symlink_to(outside / "keep")
    (tree / "directory").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    remove_tree(str(tree))
    remove_tree(str(tmp_path / "link"))
    assert left(tmp_path) == ["outside"]
    assert (outside / "keep").read_text() == "x"


def test_depth_costs_nothing(tmp_path):
    """Deeper than any path can be long, than there are descriptors, and than the interpreter recurses."""
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d" * 100, dir_fd=fd)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    remove_tree(str(tree))
    assert left(tmp_path) == []


def test_breadth(tmp_path):
    tree = tmp_path / "tree"
    for number in range(300):
        (tree / str(number) / "0" / "1").mkdir(parents=True)
        (tree / str(number) / "file").touch()
    remove_tree(str(tree))
    assert left(tmp_path) == []


names = st.sampled_from(["0", "1", "2", "a", "-", " "])


@given(st.recursive(st.none(), lambda below: st.dictionaries(names, below, max_size=4), max_leaves=12))
def test_any_tree(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("any")

    def build(path, what):
        if what is None:
            path.touch()
        else:
            path.mkdir()
            for name, below in what.items():
                build(path / name, below)

    build(root / "tree", tree)
    remove_tree(str(root / "tree"))
    assert left(root) == []


def test_directories_without_permissions(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root passes through such directories")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b/file").touch()
    (tree / "a/b").chmod(0)
    (tree / "a").chmod(0)
    remove_tree(str(tree))
    assert left(tmp_path) == []


def set_flags(path, flags):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x40086602, struct.pack("@Q", flags))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM):
            pytest.skip("this file system has no such flags, or we may not set them")
        raise
    finally:
        os.close(fd)


@needs_root
@pytest.mark.parametrize("flag", [0x10, 0x20], ids=["immutable", "append-only"])
def test_flags_that_stop_even_root(tmp_path, flag):
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "file").touch()
    (tree / "below/file").touch()
    for path in (tree / "file", tree / "below/file", tree / "below"):
        set_flags(path, flag)
    with pytest.raises(PermissionError):
        (tree / "file").unlink()
    remove_tree(str(tree))
    assert left(tmp_path) == []
