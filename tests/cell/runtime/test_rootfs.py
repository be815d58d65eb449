"""rootfs.py: a made-up root file system with everything a hostile task can plant."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from support.skips import needs_root

from bulletin.cell.runtime.accounts import Account
from bulletin.cell.runtime.api import ProcessRefused, ResultUnreadable
from bulletin.cell.runtime.rootfs import Rootfs
from bulletin.cell.runtime.spec import IdRange
from bulletin.core import limits

IDS = IdRange(100_000, 65_536)
USER = Account(2000, 2001, (50,), "/home/vcap")
ROOT = Account(0, 0, (), "/root")


@pytest.fixture
def tree(tmp_path):
    """The root of the container; beside it lies what it must not reach."""
    root = tmp_path / "root"
    for name in ("etc", "bin", "tmp", "home"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nvcap:x:2000:2001::/home/vcap:/bin/sh\n")
    (root / "etc/group").write_text("staff:x:50:vcap\n")
    (tmp_path / "outside").write_text("outside")
    return root


@pytest.fixture
def rootfs(tree):
    made = Rootfs(str(tree), None)
    yield made
    made.close()
    made.close()


# -- accounts ---------------------------------------------------------------------------------------------------


def test_accounts(rootfs):
    assert rootfs.account("vcap") == USER
    assert rootfs.account("root") == ROOT


def test_unknown_users(rootfs):
    with pytest.raises(ProcessRefused, match="unable to find user alice: no matching entries in passwd file"):
        rootfs.account("alice")


@pytest.mark.parametrize("what", ["nothing", "directory", "pipe", "dangling", "loop", "out"])
def test_a_passwd_that_is_no_file_names_nobody(rootfs, tree, tmp_path, what):
    passwd = tree / "etc/passwd"
    passwd.unlink()
    (tmp_path / "passwd").write_text("alice:x:1:1::/:/bin/sh\n")
    match what:
        case "directory":
            passwd.mkdir()
        case "pipe":
            os.mkfifo(passwd)
        case "dangling":
            passwd.symlink_to("/nowhere")
        case "loop":
            passwd.symlink_to("passwd")
        case "out":
            passwd.symlink_to("../../../../passwd")
    with pytest.raises(ProcessRefused, match="unable to find user alice"):
        rootfs.account("alice")


def test_a_passwd_behind_a_link_inside_is_read(rootfs, tree):
    (tree / "etc/passwd").rename(tree / "etc/real")
    (tree / "etc/passwd").symlink_to("/etc/real")
    assert rootfs.account("vcap") == USER


def test_an_endless_passwd_is_refused(rootfs, tree):
    os.truncate(tree / "etc/passwd", limits.ACCOUNT_FILE_BYTES_MAX + 1)
    with pytest.raises(ProcessRefused, match="File too large"):
        rootfs.account("vcap")
    os.truncate(tree / "etc/passwd", limits.ACCOUNT_FILE_BYTES_MAX)
    assert rootfs.account("vcap") == USER


@pytest.mark.parametrize("line", ["x:x:65536:0::/:/b", "x:x:0:65536::/:/b"])
def test_ids_that_are_not_mapped_are_refused(tree, line):
    (tree / "etc/passwd").write_text(line)
    shifted = Rootfs(str(tree), IDS)
    with pytest.raises(ProcessRefused, match="id 65536 is not mapped"):
        shifted.account("x")
    shifted.close()
    plain = Rootfs(str(tree), None)
    assert plain.account("x").uid in (0, 65_536)
    plain.close()


# -- programs ---------------------------------------------------------------------------------------------------


def program(path, mode=0o755):
    path.write_text("")
    path.chmod(mode)


def problem(rootfs, path, search="/bin", cwd="/home", account=USER):
    try:
        rootfs.check_program(path, search, cwd, account)
    except ProcessRefused as refusal:
        return str(refusal)
    return None


def test_programs_are_found(rootfs, tree):
    program(tree / "bin/tool")
    program(tree / "home/mine")
    for path in ("tool", "/bin/tool", "../bin/tool", "./mine", "/bin/../../bin/tool"):
        assert problem(rootfs, path) is None, path
    assert problem(rootfs, "mine", search="/bin:") is None, "an empty entry is the working directory"
    assert problem(rootfs, "mine", search="/bin:.") is None
    (tree / "bin/link").symlink_to("/bin/tool")
    assert problem(rootfs, "link") is None


def test_programs_that_are_not_there(rootfs, tree, tmp_path):
    program(tmp_path / "outside-tool")
    (tree / "bin/out").symlink_to("../../outside-tool")
    assert problem(rootfs, "tool") == 'exec: "tool": executable file not found in $PATH'
    assert problem(rootfs, "out") == 'exec: "out": executable file not found in $PATH'
    assert problem(rootfs, "/bin/tool") == 'exec: "/bin/tool": no such file or directory'
    assert problem(rootfs, "/etc/passwd/x") == 'exec: "/etc/passwd/x": not a directory'
    assert problem(rootfs, "mine") == 'exec: "mine": executable file not found in $PATH'


def test_what_is_no_program(rootfs, tree):
    (tree / "bin/directory").mkdir()
    os.mkfifo(tree / "bin/pipe", 0o777)
    program(tree / "bin/plain", 0o644)
    for name in ("directory", "pipe", "plain"):
        assert problem(rootfs, name) == f'exec: "{name}": permission denied'
        assert problem(rootfs, f"/bin/{name}") == f'exec: "/bin/{name}": permission denied'


def test_a_later_directory_of_the_search_counts_too(rootfs, tree):
    program(tree / "bin/tool", 0o644)
    program(tree / "home/tool")
    assert problem(rootfs, "tool", search="/bin:/home") is None


def test_interpreters_have_to_be_there_too(rootfs, tree):
    script(tree / "bin/good", "/bin/shell")
    script(tree / "bin/lost", "/bin/none")
    script(tree / "bin/relative", "shell")
    script(tree / "bin/twice", "/bin/good")
    script(tree / "bin/loop", "/bin/loop")
    script(tree / "bin/closed", "/bin/plain")
    program(tree / "bin/shell")
    program(tree / "home/shell")
    program(tree / "bin/plain", 0o644)
    for name in ("good", "relative", "twice"):
        assert problem(rootfs, name) is None
    assert problem(rootfs, "lost") == 'exec: "lost": its interpreter /bin/none is not there'
    assert problem(rootfs, "/bin/lost") == 'exec: "/bin/lost": its interpreter /bin/none is not there'
    assert problem(rootfs, "loop") == 'exec: "loop": too many levels of symbolic links'
    assert problem(rootfs, "closed") == 'exec: "closed": permission denied'


def script(path, interpreter):
    path.write_text(f"#!{interpreter} -x\n")
    path.chmod(0o755)


@needs_root
@pytest.mark.parametrize("ids", [None, IDS])
@pytest.mark.parametrize(
    ("owner", "group", "mode", "account", "allowed"),
    [
        (2000, 0, 0o100, USER, True),
        (2000, 0, 0o011, USER, False),
        (0, 2001, 0o010, USER, True),
        (0, 50, 0o010, USER, True),
        (0, 50, 0o001, USER, False),
        (0, 0, 0o001, USER, True),
        (0, 0, 0o110, USER, False),
        (0, 0, 0o001, ROOT, True),
        (2000, 0, 0o100, ROOT, True),
        (0, 0, 0o666, ROOT, False),
    ],
)
def test_who_may_execute(tree, ids, owner, group, mode, account, allowed):
    program(tree / "bin/tool", mode)
    shift = 0 if ids is None else ids.base
    os.chown(tree / "bin/tool", owner + shift, group + shift)
    rootfs = Rootfs(str(tree), ids)
    assert (problem(rootfs, "tool", account=account) is None) == allowed
    rootfs.close()


# -- directories ------------------------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("ids", [None, IDS])
def test_missing_directories_are_made_for_the_user(tree, ids):
    rootfs = Rootfs(str(tree), ids)
    before = os.umask(0o777)
    try:
        rootfs.make_directory("/home/a/./b//c/", USER)
    finally:
        os.umask(before)
    shift = 0 if ids is None else ids.base
    for name in ("home/a", "home/a/b", "home/a/b/c"):
        status = (tree / name).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (2000 + shift, 2001 + shift, 0o755)
    assert (tree / "home").stat().st_uid == 0
    rootfs.close()


def test_a_directory_that_is_there_stays_as_it_is(rootfs, tree):
    (tree / "home").chmod(0o700)
    rootfs.make_directory("/home", USER)
    rootfs.make_directory("/", USER)
    assert (tree / "home").stat().st_mode & 0o777 == 0o700


@needs_root
def test_directories_are_made_inside_only(rootfs, tree, tmp_path):
    (tree / "up").symlink_to("../..")
    (tree / "absolute").symlink_to(tmp_path)
    rootfs.make_directory("/up/made/here", USER)
    rootfs.make_directory("/../../also", USER)
    assert (tree / "made/here").is_dir()
    assert (tree / "also").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]
    with pytest.raises(ProcessRefused, match="unable to create working directory"):
        rootfs.make_directory("/absolute/x", USER)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/passwd/x", "/dangling", "/loop/x", "/" + "x" * 256, "/x" * 2500])
def test_directories_that_cannot_be_made(rootfs, tree, path):
    (tree / "dangling").symlink_to("/nowhere/at/all")
    (tree / "loop").symlink_to("loop")
    with pytest.raises(ProcessRefused, match="unable to create working directory"):
        rootfs.make_directory(path, USER)


# -- results ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_results_up_to_the_bound(rootfs, tree, size):
    (tree / "tmp/r").write_bytes(b"x" * size)
    assert rootfs.read_result("/tmp/r", 100) == b"x" * size


@pytest.mark.parametrize("size", [101, 10**6])
def test_results_over_the_bound(rootfs, tree, size):
    (tree / "tmp/r").write_bytes(b"x" * size)
    with pytest.raises(ResultUnreadable, match=r"result file is too large \(over 100 bytes\)"):
        rootfs.read_result("/tmp/r", 100)


def test_a_file_that_tells_no_size_is_bounded_too(tmp_path):
    """As those of /proc, which a task cannot plant, but an image's directory may be anywhere."""
    rootfs = Rootfs("/proc", None)
    with pytest.raises(ResultUnreadable, match="too large"):
        rootfs.read_result("/meminfo", 100)
    assert rootfs.read_result("/version", 10_000).startswith(b"Linux")
    rootfs.close()


def test_results_that_cannot_be_waited_for(rootfs, tree):
    os.mkfifo(tree / "tmp/pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tree / "tmp/socket"))
    for name in ("pipe", "socket"):
        with pytest.raises(ResultUnreadable, match="neither a file nor a directory nor a link"):
            rootfs.read_result(f"/tmp/{name}", 100)


@needs_root
def test_a_device_is_never_opened(rootfs, tree):
    os.mknod(tree / "tmp/zero", 0o20666, os.makedev(1, 5))
    with pytest.raises(ResultUnreadable, match="neither"):
        rootfs.read_result("/tmp/zero", 100)


def test_directories_and_links_are_empty(rootfs, tree):
    (tree / "tmp/link").symlink_to("/etc/passwd")
    (tree / "tmp/dangling").symlink_to("/nowhere")
    for path in ("/tmp", "/tmp/", "/", "//", "/tmp/link", "/tmp/dangling", "/tmp/link/"):
        assert rootfs.read_result(path, 100) == b"", path


def test_results_do_not_come_from_outside(rootfs, tree, tmp_path):
    (tree / "tmp/up").symlink_to("../../..")
    (tree / "tmp/absolute").symlink_to(tmp_path)
    for path in ("/tmp/up/outside", "/tmp/absolute/outside", "/../outside", "../outside"):
        with pytest.raises(ResultUnreadable, match="cannot be found"):
            rootfs.read_result(path, 100)
    (tree / "outside").write_text("inside")
    assert rootfs.read_result("/../outside", 100) == b"inside"
    assert rootfs.read_result("/tmp/up/outside", 100) == b"inside"


def test_magic_links_are_not_followed():
    rootfs = Rootfs("/proc", None)
    for path in ("/self/root/etc/passwd", "/self/cwd/x", "/self/fd/0/x"):
        with pytest.raises(ResultUnreadable):
            rootfs.read_result(path, 100)
    rootfs.close()


def test_a_relative_result_is_below_the_home_of_root(rootfs, tree):
    (tree / "root").mkdir()
    (tree / "root/r").write_text("home")
    assert rootfs.read_result("r", 100) == b"home"
    (tree / "etc/passwd").unlink()
    (tree / "r").write_text("top")
    assert rootfs.read_result("r", 100) == b"top"


def test_nothing_is_read_once_it_is_closed(rootfs, tree):
    (tree / "tmp/r").write_text("x")
    rootfs.close()
    with pytest.raises(ResultUnreadable, match="gone"):
        rootfs.read_result("/tmp/r", 100)


def test_closing_waits_for_a_reader(rootfs, tree):
    """A descriptor that was closed under a reader could by then be that of another directory."""
    (tree / "tmp/r").write_text("x")
    with rootfs._reading:
        closer = threading.Thread(target=rootfs.close)
        closer.start()
        closer.join(0.05)
        assert closer.is_alive()
        assert os.stat("tmp/r", dir_fd=rootfs._fd).st_size == 1
    closer.join()
